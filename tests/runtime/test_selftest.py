from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from runtime.bundle import GOLDEN, Precision, load_bundle, load_golden
from runtime.errors import BundleError, SessionError
from runtime.preprocess import PictureRule
from runtime.selftest import check_logits, check_pictures, run_self_test, sqnr_db
from runtime.sessions.ort import OrtStepSession
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.runtime.faults import BgrSession, ForgetfulSession, OnePhaseSession, RecordingSession

PRECISIONS = ["float32", "float16", "int8"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), fp16=True)


@pytest.mark.parametrize("phases", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_session_passes_quickly(bundle, precision, phases):
    session = RecordingSession(OrtStepSession(bundle, precision, phases))
    started_s = time.monotonic()
    result = run_self_test(bundle, session, precision)
    assert time.monotonic() - started_s < 1
    assert result.steps == len(session.calls) <= 16
    assert result.sqnr_db > 60
    assert {phase for phase, _ in session.calls} == {0, phases - 1}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mutant", [BgrSession, ForgetfulSession])
def test_mutants_fail(bundle, mutant, precision):
    with pytest.raises(SessionError, match=r"self-test failed at golden step \d+ of 12"):
        run_self_test(bundle, mutant(OrtStepSession(bundle, precision)), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_phases_that_share_states_fail(bundle, precision):
    with pytest.raises(SessionError, match="self-test failed at golden step"):
        run_self_test(bundle, OnePhaseSession(OrtStepSession(bundle, precision, 2)), precision)


def test_another_models_weights_fail(bundle, tmp_path):
    other = write_mini_bundle(tmp_path / "other", seed=1)
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    shutil.copy(other.folder / "step.onnx", copy / "step.onnx")
    write_manifest(load_bundle(copy, verify=False))
    mixed = load_bundle(copy)
    with pytest.raises(SessionError, match="self-test failed at golden step 0"):
        run_self_test(mixed, OrtStepSession(mixed), "float32")


def shifted(bundle, **rule):
    return PictureRule(height_px=32, width_px=32, **rule)


def test_a_crop_that_is_off_fails(bundle):
    golden = load_golden(bundle)
    check_pictures(bundle, golden)
    for rule in (
        shifted(bundle, crop="center"),
        shifted(bundle, crop="roi", roi=(3 / 64, 0.0, 1.0, 1.0)),
    ):
        wrong = type(bundle)(**{**vars(bundle), "picture": rule})
        with pytest.raises(SessionError, match="golden camera picture 0 differs by"):
            check_pictures(wrong, golden)


def test_noise_decides_by_decibels_and_top1_by_clear_margins():
    rng = np.random.default_rng(0)
    expected = rng.normal(0, 5, (12, 6)).astype(np.float32)
    noise = rng.normal(0, 1, expected.shape).astype(np.float32)
    limits: list[tuple[Precision, float, float]] = [
        ("float32", 0.03, 0.1),
        ("float16", 0.1, 0.3),
        ("int8", 0.3, 1.0),
    ]
    for precision, good, bad in limits:
        check_logits(expected + good * noise, expected, precision, "x")
        with pytest.raises(SessionError, match="logits have SQNR"):
            check_logits(expected + bad * noise, expected, precision, "x")
    moved = expected.copy()  # one clear step moves, the rest is perfect: decibels stay high
    best = moved[7].argmax()
    moved[7, best] = np.sort(expected[7])[-2] - 0.01
    with pytest.raises(SessionError, match="step 7 of 12: .* top-1 differs on 1 clear"):
        check_logits(moved, expected, "int8", "x")


def test_nan_never_passes():
    expected = np.ones((4, 3), np.float32)
    got = expected.copy()
    got[2, 1] = np.nan
    with pytest.raises(SessionError, match="golden step 2 of 4"):
        check_logits(got, expected, "int8", "x")


def test_a_bundle_without_int8_logits_says_so(tmp_path):
    plain = write_mini_bundle(tmp_path, int8=False)
    with pytest.raises(BundleError, match="no golden logits for int8"):
        run_self_test(plain, OrtStepSession(plain), "int8")


def test_an_unreadable_golden_file_says_so(tmp_path):
    bundle = write_mini_bundle(tmp_path)
    (tmp_path / GOLDEN).write_bytes(b"no archive")
    with pytest.raises(BundleError, match="golden.npz cannot be read"):
        run_self_test(bundle, OrtStepSession(bundle), "float32")


def test_equal_logits_have_infinite_sqnr():
    ones = np.ones((2, 2), np.float32)
    assert sqnr_db(ones, ones) == float("inf")
    assert sqnr_db(ones, np.zeros_like(ones)) == float("-inf")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_golden_sequence_cut_short_is_one_clear_error(bundle, tmp_path, kept):
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    whole = (copy / GOLDEN).read_bytes()
    (copy / GOLDEN).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        BundleError, match=r"golden\.npz cannot be read .*; export the bundle again"
    ):
        load_golden(load_bundle(copy, verify=False))
