"""The golden sequence of a real bundle: a right device passes, every mutant fails."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import runtime.selftest
from export.golden import GOLDEN_STEPS, RESET_AT, camera_frames, golden_frames
from runtime.bundle import GRAPH_OF, load_golden
from runtime.errors import SessionError
from runtime.preprocess import PictureRule, fit_picture
from runtime.selftest import MAX_STEPS, check_pictures, run_self_test
from runtime.sessions.ort import OrtStepSession
from tests.export.small import SQUARE, moving_frames
from tests.runtime.faults import BgrSession, ForgetfulSession, OnePhaseSession, RecordingSession

PRECISIONS = ["float32", "int8"]
FAILED = r"self-test failed at golden step \d+ of"


class NeverResetSession(RecordingSession):
    """Starts once and never again."""

    def changed(self, phase, frames, reset):
        first = sum(called == phase for called, _ in self.calls) == 1
        return phase, frames, reset if first else np.zeros_like(reset)


@pytest.fixture
def edited(built, tmp_path):
    """`edited(precision, edit)`: the bundle with one step graph changed by `edit(graph)`."""

    def make(precision, edit):
        folder = tmp_path / "edited"
        shutil.copytree(built.bundle.folder, folder)
        bundle = replace(built.bundle, folder=folder)
        path = bundle.graph_path(GRAPH_OF[precision])
        proto = onnx.load(path)
        edit(proto.graph)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)
        return bundle

    return make


def only_reader(graph, tensor):
    (reader,) = [node for node in graph.node if tensor in node.input]
    return reader


def with_mean(*rgb):
    """The graph takes another mean off its pictures."""

    def edit(graph):
        name = "frame"
        for kind in ("Cast", "Transpose", "Sub"):
            node = only_reader(graph, name)
            assert node.op_type == kind
            name = node.output[0]
        constant = numpy_helper.from_array(
            np.array(rgb, np.float32).reshape(1, 3, 1, 1), "wrong_mean"
        )
        graph.initializer.append(constant)
        node.input[1] = "wrong_mean"

    return edit


def swap_states(graph):
    """Two equally large states change places on their way out."""
    for node in graph.node:
        swapped = {"state_out_01": "state_out_02", "state_out_02": "state_out_01"}
        node.output[:] = [swapped.get(name, name) for name in node.output]


@pytest.mark.parametrize("phases", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bundle_passes_its_own_check(built, precision, phases):
    with OrtStepSession(built.bundle, precision, phases) as session:
        result = run_self_test(built.bundle, session, precision)
    assert result.sqnr_db > (100 if precision == "float32" else 25)
    assert result.steps <= 16


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mutant", [BgrSession, ForgetfulSession, NeverResetSession])
def test_mutants_of_the_session_fail(built, mutant, precision, phases):
    session = mutant(OrtStepSession(built.bundle, precision, phases))
    with session, pytest.raises(SessionError, match=FAILED):
        run_self_test(built.bundle, session, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mixed_phases_fail(built, precision):
    session = OnePhaseSession(OrtStepSession(built.bundle, precision, 2))
    with session, pytest.raises(SessionError, match=FAILED):
        run_self_test(built.bundle, session, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_swapped_states_fail(edited, precision):
    bundle = edited(precision, swap_states)
    with OrtStepSession(bundle, precision) as session, pytest.raises(SessionError, match=FAILED):
        run_self_test(bundle, session, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_without_a_mean_fails(edited, precision):
    bundle = edited(precision, with_mean(0, 0, 0))
    with OrtStepSession(bundle, precision) as session, pytest.raises(SessionError, match=FAILED):
        run_self_test(bundle, session, precision)


@pytest.mark.parametrize("mean", [(127.5, 127.5, 127.5), (103.53, 116.28, 123.675)])
def test_a_wrong_mean_fails(edited, mean):
    """0.5 for ImageNet's, or blue's and red's changed places."""
    bundle = edited("float32", with_mean(*mean))
    with OrtStepSession(bundle) as session, pytest.raises(SessionError, match=FAILED):
        run_self_test(bundle, session, "float32")


SHIFTS = {
    "right": lambda frame: np.roll(frame, 3, axis=1),
    "down": lambda frame: np.roll(frame, 3, axis=0),
    "cut": lambda frame: np.ascontiguousarray(frame[3:, 3:]),
    "blue first": lambda frame: np.ascontiguousarray(frame[..., ::-1]),
    "mirrored": lambda frame: np.ascontiguousarray(frame[:, ::-1]),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_wrong_preprocessing_fails(built, monkeypatch, shift):
    monkeypatch.setattr(
        runtime.selftest, "fit_picture", lambda frame, rule: fit_picture(SHIFTS[shift](frame), rule)
    )
    with pytest.raises(SessionError, match=r"golden camera picture \d differs by"):
        check_pictures(built.bundle, load_golden(built.bundle))


@pytest.mark.parametrize("size_px", [32, 48, 112, 224])
@pytest.mark.parametrize("crop", ["full", "center"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_camera_pictures_show_three_pixels_at_every_size(shift, crop, size_px):
    """The largest of the three differences is what the check sees; its limit is 1."""
    rule = PictureRule(height_px=size_px, width_px=size_px, crop=crop)
    soft = np.full((size_px, size_px, 3), 120, np.uint8)  # a picture that gives nothing away
    differences = [
        np.abs(
            fit_picture(SHIFTS[shift](frame), rule).astype(int) - fit_picture(frame, rule)
        ).mean()
        for frame in camera_frames([soft])
    ]
    assert max(differences) > 2


def test_golden_frames_are_as_long_as_the_check(built):
    golden = load_golden(built.bundle)
    assert len(golden.frames) == GOLDEN_STEPS == MAX_STEPS
    assert golden.reset.tolist() == [float(step in RESET_AT) for step in range(GOLDEN_STEPS)]
    # with two phases half of the steps run: the second reset and its sequel are in it
    assert 2 <= RESET_AT[1] <= MAX_STEPS // 2 - 2
    assert golden.logits.shape == golden.logits_int8.shape == (GOLDEN_STEPS, 13)
    assert len({frame.tobytes() for frame in golden.frames}) > GOLDEN_STEPS // 2


def test_few_pictures_are_repeated():
    pictures = list(moving_frames(3))
    frames, reset = golden_frames(pictures)
    assert frames.shape[0] == reset.shape[0] == GOLDEN_STEPS
    assert np.array_equal(frames[4], frames[1])
    assert np.array_equal(frames[4, ..., 0], pictures[1][..., 0])


def test_grey_pictures_get_a_colour():
    frames, _ = golden_frames([np.full((32, 32, 3), 200, np.uint8)])
    assert frames[0, 0, 0].tolist() == [200, 170, 120]


def test_camera_pictures_are_landscape_portrait_and_odd(built):
    golden = load_golden(built.bundle)
    sizes = [frame.shape for frame in golden.camera_frames]
    assert sizes == [(720, 1280, 3), (640, 480, 3), (377, 501, 3)]
    assert golden.camera_pictures.shape == (3, SQUARE.height_px, SQUARE.width_px, 3)
    for frame, expected in zip(golden.camera_frames, golden.camera_pictures, strict=True):
        assert np.array_equal(fit_picture(frame, SQUARE), expected)
