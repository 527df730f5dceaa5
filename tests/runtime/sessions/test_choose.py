from __future__ import annotations

import logging

import pytest

from runtime.errors import BundleError, SessionError
from runtime.sessions import choose
from runtime.sessions.choose import SessionChoice, choose_session, open_session
from tests.mini_bundle import write_mini_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=2, window_s=1.0)


def machine(monkeypatch, *, gpu, libraries=()):
    """The only fake here: a machine that this one is not."""
    monkeypatch.setattr(choose, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(choose, "find_tensorrt", lambda names: names[0] in libraries or None)


def test_a_machine_without_gpu_uses_onnx_runtime(bundle, monkeypatch):
    machine(monkeypatch, gpu=False, libraries=("tensorrt",))
    assert choose_session(bundle) == SessionChoice("ort", "int8", "no NVIDIA GPU here")


@pytest.mark.parametrize(
    ("libraries", "backend"),
    [
        (("tensorrt", "tensorrt_rtx"), "tensorrt"),
        (("tensorrt_rtx",), "tensorrt_rtx"),
    ],
)
def test_a_machine_with_gpu_uses_nvidias_library(bundle, monkeypatch, libraries, backend):
    machine(monkeypatch, gpu=True, libraries=libraries)
    assert choose_session(bundle).backend == backend


def test_a_gpu_is_never_left_alone_silently(bundle, monkeypatch):
    machine(monkeypatch, gpu=True)
    with pytest.raises(SessionError, match="pass --backend ort to run on the CPU"):
        choose_session(bundle)
    assert choose_session(bundle, "ort").reason == "asked for"


def test_type_stubs_are_no_tensorrt(bundle, monkeypatch):
    # the `tensorrt-stubs` package leaves an importable, empty `tensorrt`
    if hasattr(pytest.importorskip("tensorrt"), "Runtime"):
        pytest.skip("this machine has the real TensorRT")
    monkeypatch.setattr(choose, "has_nvidia_gpu", lambda: True)
    try:
        assert choose_session(bundle).backend == "tensorrt_rtx"
    except SessionError as err:
        assert "no TensorRT for it" in str(err)  # noqa: PT017  either is right


def test_precision_follows_the_bundle(bundle, tmp_path):
    assert choose_session(bundle, "ort", "float32").precision == "float32"
    plain = write_mini_bundle(tmp_path, int8=False)
    assert choose_session(plain, "ort").precision == "float32"
    with pytest.raises(BundleError, match="has no step_int8 graph"):
        choose_session(plain, "ort", "int8")


@pytest.mark.parametrize("int8", [True, False])
def test_half_is_for_nvidia(tmp_path, monkeypatch, int8):
    bundle = write_mini_bundle(tmp_path, fp16=True, int8=int8)
    assert choose_session(bundle, "ort", "float16").precision == "float16"
    machine(monkeypatch, gpu=False)
    assert choose_session(bundle).precision == ("int8" if int8 else "float32")
    machine(monkeypatch, gpu=True, libraries=("tensorrt",))
    assert choose_session(bundle).precision == ("int8" if int8 else "float16")


def test_a_bundle_from_before_the_half_graph(bundle, tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="has no step_fp16 graph, it has clip, step, step_int8"):
        choose_session(bundle, "ort", "float16")
    machine(monkeypatch, gpu=True, libraries=("tensorrt",))
    assert choose_session(write_mini_bundle(tmp_path, int8=False)).precision == "float32"


def test_unknown_names_are_refused(bundle):
    with pytest.raises(ValueError, match="backend must be auto, ort, .* got 'cuda'"):
        choose_session(bundle, "cuda")
    with pytest.raises(
        ValueError, match="precision must be auto, float32, float16, int8, got 'fp4'"
    ):
        choose_session(bundle, "ort", "fp4")


def test_what_was_chosen_is_logged_with_its_reason(bundle, caplog):
    caplog.set_level(logging.INFO)
    with open_session(bundle, "ort", "float32") as session:
        assert session.num_phases == 2  # two frames a second: two phases decide four times
    assert "CPU, float32 (asked for), 2 phase(s)" in caplog.text


def test_tensorrt_without_its_parts_says_so(bundle, monkeypatch):
    machine(monkeypatch, gpu=False)
    with pytest.raises(SessionError, match="tensorrt is not installed"):
        open_session(bundle, "tensorrt")
