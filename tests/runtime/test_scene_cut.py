from __future__ import annotations

import cv2
import numpy as np
import pytest

from runtime.scene_cut import SceneCuts
from runtime.sources.frame import Frame
from runtime.stepper import Due, Stepper
from tests.mini_bundle import write_mini_bundle
from tests.videos import bikes_path


def room(seed, height_px=144, width_px=256):
    """A soft picture with colours of its own."""
    few = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), np.uint8)
    return cv2.resize(few, (width_px, height_px), interpolation=cv2.INTER_CUBIC)


def lit(picture, gain):
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


def cuts_of(pictures, threshold=None):
    cuts = SceneCuts() if threshold is None else SceneCuts(threshold)
    return [number for number, picture in enumerate(pictures) if cuts.see(picture)]


def test_another_scene_is_a_cut():
    scenes = [room(seed) for seed in range(20)]
    frames = [scene for scene in scenes for _ in range(10)]
    assert cuts_of(frames) == list(range(10, 200, 10))
    assert cuts_of(frames, threshold=254) == []


def test_the_cuts_of_a_real_film_are_found_and_nothing_else():
    capture = cv2.VideoCapture(str(bikes_path()))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert cuts_of(frames) == [30, 76, 137, 187, 242]  # looked at, one by one


@pytest.mark.parametrize("gain", [0.15, 0.3, 0.5])
def test_a_light_that_is_switched_is_a_cut(gain):
    dark = lit(room(1), gain)
    assert cuts_of([room(1)] * 5 + [dark] * 5 + [room(1)] * 5) == [5, 10]


@pytest.mark.parametrize("size", [0.1, 0.2])
def test_flicker_and_exposure_are_none(size):
    rng = np.random.default_rng(0)
    assert cuts_of([lit(room(1), 1 + rng.uniform(-size, size)) for _ in range(100)]) == []
    assert cuts_of([room(1)] * 5 + [lit(room(1), 0.75)] * 5) == []


def test_noise_is_none():
    rng = np.random.default_rng(0)
    noisy = [np.clip(room(1) + rng.normal(0, 50, room(1).shape), 0, 255) for _ in range(30)]
    assert cuts_of([picture.astype(np.uint8) for picture in noisy]) == []


@pytest.mark.parametrize("share", [0.25, 0.45])
def test_someone_close_who_moves_fast_is_none(share):
    def passes(step):
        picture = room(1).copy()
        width = picture.shape[1]
        columns = (np.arange(round(width * share)) + step * width // 8) % width
        picture[:, columns] = 20
        return picture

    assert cuts_of(map(passes, range(60))) == []


def test_a_camera_that_always_moves_fast_is_none():
    wide = np.concatenate([room(seed) for seed in range(8)], axis=1)
    moves = [np.roll(wide, 40 * step, axis=1)[:, :256] for step in range(40)]
    assert len(cuts_of(moves)) <= 1, "its start may be one"
    still = [wide[:, :256]] * 10
    other = [255 - wide[:, :256]] * 10
    assert cuts_of(still + other) == [10]


def test_a_restart_has_no_last_frame():
    cuts = SceneCuts()
    cuts.see(room(1))
    cuts.restart()
    assert not cuts.see(255 - room(1))
    assert cuts.see(room(1))


def test_sizes_may_change_and_thresholds_are_checked():
    small = cv2.resize(room(1), (33, 17))
    assert cuts_of([room(1), small, room(2)]) == [2]
    for threshold in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="must be > 0"):
            SceneCuts(threshold)


def test_a_stepper_starts_anew_at_cuts_and_calls_a_reconnect_by_its_name(tmp_path):
    bundle = write_mini_bundle(tmp_path / "mini", num_segments=4, window_s=1.0)
    stepper = Stepper(bundle, 1, "camera")
    stepper.reset_on(SceneCuts())
    resets: list[tuple[float, str]] = []

    def show(picture, time_s, connection=0):
        outcome = stepper.offer(Frame(picture, 0, time_s, 0, connection))
        if isinstance(outcome, Due):
            assert outcome.starts == (outcome.tick.index == 0)
            outcome = stepper.finish(outcome, np.zeros(3, np.float32))
        told = [event.details["reason"] for event in outcome.events if event.kind == "reset"]
        resets.extend((time_s, reason) for reason in told)
        return outcome

    for number in range(10):
        show(room(1), number / 10)
    cut = show(room(2), 1.0)
    assert cut.tick is not None
    assert cut.tick.index == 0, "the first frame of the scene is used"
    show(room(3), 7.0, connection=1)
    show(room(3), 7.1, connection=1)
    show(room(4), 0.0, connection=1)
    show(room(5), 0.1, connection=1)
    assert resets == [
        (0.0, "start"),
        (1.0, "scene_cut"),
        (7.0, "reconnect"),
        (0.0, "time_went_back"),
        (0.1, "scene_cut"),
    ]
