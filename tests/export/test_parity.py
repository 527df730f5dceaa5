from __future__ import annotations

import numpy as np
import pytest

import export.parity
from export.parity import (
    LARGEST_DIFFERENCE,
    compare,
    model_steps,
    require_equal,
    session_clips,
    session_steps,
)
from runtime.errors import ExportError
from runtime.sessions.ort import OrtStepSession
from tests.export.small import UNITS, moving_frames, run_steps, small_model
from tests.mini_bundle import mini_model, reference_logits, write_mini_bundle

EXPECTED = np.array([[0, 10], [10, 0], [0, 10], [6, 8]], np.float32)


def test_numbers_by_hand():
    got = EXPECTED.copy()
    got[3] = [8, 6]  # two apart twice, and top-1 moves
    parity = compare(got, EXPECTED)
    assert parity.steps == 4
    assert parity.max_abs == 2
    assert parity.logits_range == 10
    assert parity.relative == pytest.approx(0.2)
    assert parity.same_top1 == 0.75
    assert parity.sqnr_db == pytest.approx(10 * np.log10(400 / 8))
    assert parity.to_json()["relative"] == parity.relative


def test_equal_logits():
    parity = compare(EXPECTED, EXPECTED)
    assert (parity.max_abs, parity.sqnr_db, parity.same_top1) == (0, 999, 1)
    require_equal(parity, "step.onnx")


def test_logits_that_are_no_numbers_are_worst():
    got = EXPECTED.copy()
    got[1, 1] = np.nan
    parity = compare(got, EXPECTED)
    assert parity.sqnr_db == -999
    with pytest.raises(ExportError, match=r"step\.onnx differs from the model by nan"):
        require_equal(parity, "step.onnx")


def test_the_limit_is_a_share_of_the_range():
    assert LARGEST_DIFFERENCE == 1e-4
    for difference, passes in ((0.0009, True), (0.0011, False)):
        got = EXPECTED.copy()
        got[0, 1] += difference
        if passes:
            require_equal(compare(got, EXPECTED), "clip.onnx")
        else:
            with pytest.raises(
                ExportError, match=r"clip\.onnx differs .* over 4 steps, allowed 1e-04"
            ):
                require_equal(compare(got, EXPECTED), "clip.onnx")


def test_logits_of_no_range_are_not_equal_to_others():
    with pytest.raises(ExportError, match="differs from the model by inf"):
        require_equal(compare(np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)), "x")


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        compare(EXPECTED[:3], EXPECTED)


@pytest.mark.parametrize("kind", ["pem-tsm", "plain"])
def test_model_steps_follow_the_resets(step_of, kind):
    step, frames = step_of("tiny", kind), moving_frames(6)
    reset = np.array([1, 0, 0, 1, 0, 0], np.float32)
    got = model_steps(small_model("tiny", UNITS[kind]), frames, reset)
    expected, _ = run_steps(step.path, step.states, frames, reset_at=(0, 3))
    require_equal(compare(expected, got), kind)


def test_session_steps_and_clips(tmp_path):
    bundle = write_mini_bundle(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    reset = np.array([1] + 5 * [0] + [1] + 5 * [0], np.float32)
    expected = reference_logits(mini_model(3), frames, reset)
    with OrtStepSession(bundle) as session:
        steps = session_steps(session, frames, reset)
        clips = session_clips(session, frames.reshape(2, 6, 32, 32, 3))
    np.testing.assert_allclose(steps, expected, rtol=1e-4, atol=1e-4)
    # every clip from the zero state, and the mean over its frames
    np.testing.assert_allclose(clips, expected.reshape(2, 6, 3).mean(1), rtol=1e-4, atol=1e-4)


def test_clips_pass_under_a_bar_that_says_which_session(tmp_path, monkeypatch):
    seen = []

    def bar(items, **said):
        seen.append((len(items), said["desc"], said["disable"]))
        return items

    monkeypatch.setattr(export.parity, "tqdm", bar)
    bundle = write_mini_bundle(tmp_path / "bundle")
    picture = bundle.picture
    clips = np.zeros((3, 2, picture.height_px, picture.width_px, 3), np.uint8)
    with OrtStepSession(bundle) as session:
        session_clips(session, clips)
        assert seen == [(3, session.description, None)]
