"""The hard arrow of time: made hard, but only in ways that do not tell which way time runs."""

import numpy as np
import pytest

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from train.data.arrow_hard import Hardness, Sizes, build, hard_frames, main
from train.data.arrow_of_time import load_arrays
from train.data.arrow_render import render
from train.data.arrow_scene import LABELS, make_scene
from train.data.catalog import load_split, read_labels

PICTURE = PictureRule(height_px=96, width_px=96)
SMALL = Sizes(train_scenes=13, validation_scenes=14, frames_per_clip=4, picture_px=32)
EASY = Hardness(distractors=0, shake_px=0, noise=0)


def frames(hardness: Hardness, seed: int = 0) -> np.ndarray:
    scene = make_scene("slide_left", 0, "train", 0)
    rng = np.random.default_rng(seed)
    return np.stack(hard_frames(scene, rng, "train", 8, PICTURE, hardness)).astype(np.float64)


def test_nothing_added_leaves_the_easy_clip():
    scene = make_scene("slide_left", 0, "train", 0)
    plain = [
        render(scene, (i + 0.5) / 8, ((i + 0.5) / 8 - 0.5) * scene.duration_s) for i in range(8)
    ]
    np.testing.assert_array_equal(frames(EASY), np.stack(plain))


def test_noise_has_the_asked_deviation_and_is_new_in_every_frame():
    added = frames(Hardness(distractors=0, shake_px=0, noise=12)) - frames(EASY)
    assert added.std() == pytest.approx(12, rel=0.05)
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.05


def test_shake_moves_the_whole_picture_by_pixels():
    shaken = frames(Hardness(distractors=0, shake_px=3, noise=0))
    still = frames(EASY)
    assert np.abs(shaken - still).mean(axis=(1, 2, 3)).min() > 0.2
    # what the mean picture is does not change: nothing is added, only moved
    assert np.abs(shaken.mean(axis=(1, 2, 3)) - still.mean(axis=(1, 2, 3))).max() < 3


def test_distractors_move_and_stay_near_their_place():
    added = np.abs(frames(Hardness(distractors=1, shake_px=0, noise=0)) - frames(EASY)).max(-1)
    places = [np.argwhere(frame > 20).mean(0) for frame in added]
    travel = np.ptp(np.stack(places), axis=0).max()
    assert 2 < travel < 2 * Hardness().sway_px + 8


def test_build_makes_two_splits_that_the_catalog_reads_and_keeps_them(tmp_path):
    build(tmp_path, 0, SMALL, Hardness())
    labels = read_labels(tmp_path)
    assert labels == LABELS
    train = load_split(tmp_path, "train", labels)
    assert train.arrays is not None
    assert train.arrays.frames.shape == (13, 4, 32, 32, 3)
    before = (tmp_path / "train" / "frames.npy").stat().st_mtime_ns
    build(tmp_path, 0, SMALL, Hardness())
    assert (tmp_path / "train" / "frames.npy").stat().st_mtime_ns == before
    build(tmp_path, 0, SMALL, Hardness(noise=1))
    assert (tmp_path / "train" / "frames.npy").stat().st_mtime_ns != before
    validation = load_arrays(tmp_path / "validation")
    assert len(validation.frames) == 14
    assert not np.array_equal(validation.frames[:13], train.arrays.frames)


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="not made by this command"):
        build(tmp_path, 0, SMALL, Hardness())


@pytest.mark.parametrize("name", ["distractors", "sway_px", "shake_px", "noise"])
def test_hardness_is_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 0, got -1"):
        Hardness(**{name: -1})


def test_the_command_draws_a_sheet_and_wants_something_to_do(tmp_path):
    sheet = tmp_path / "sheet.png"
    main(["--sheet", str(sheet), "--noise", "3"])
    assert sheet.stat().st_size > 10_000
    with pytest.raises(ValueError, match="nothing to do"):
        main([])
