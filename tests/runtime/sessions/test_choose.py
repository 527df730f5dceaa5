from __future__ import annotations

import logging

import pytest

from runtime.errors import BundleError, SessionError
from runtime.sessions import choose
from runtime.sessions.choose import SessionChoice, choose_session, open_session
from tests.mini_bundle import write_mini_bundle
from tests.openvino_part import needs_openvino


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=2, window_s=1.0)


def machine(monkeypatch, *, gpu, libraries=(), openvino=False):
    """The only fake here: a machine that this one is not."""
    monkeypatch.setattr(choose, "has_openvino", lambda: openvino)
    monkeypatch.setattr(choose, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(choose, "find_tensorrt", lambda names: names[0] in libraries or None)


def test_a_machine_without_gpu_uses_openvino_in_int8(bundle, tmp_path, monkeypatch):
    machine(monkeypatch, gpu=False, libraries=("tensorrt",), openvino=True)
    why = "no NVIDIA GPU here; int8 is its fastest"
    assert choose_session(bundle) == SessionChoice("openvino", "int8", why)
    plain = write_mini_bundle(tmp_path, int8=False, fp16=True)
    why = "no NVIDIA GPU here; float32 is the fastest in this bundle"
    assert choose_session(plain) == SessionChoice("openvino", "float32", why)


def test_without_openvino_it_uses_onnx_runtime_in_float(bundle, monkeypatch):
    """Its INT8 is slower than its float: docs/measurements/sessions.md."""
    machine(monkeypatch, gpu=False, libraries=("tensorrt",))
    why = "no NVIDIA GPU here, openvino is not installed; float32 is its fastest"
    assert choose_session(bundle) == SessionChoice("ort", "float32", why)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_what_is_asked_for_is_taken(bundle, monkeypatch, backend, precision):
    machine(monkeypatch, gpu=True, libraries=("tensorrt",), openvino=True)
    why = f"{backend} asked for; {precision} asked for"
    assert choose_session(bundle, backend, precision) == SessionChoice(backend, precision, why)
    machine(monkeypatch, gpu=False, openvino=backend == "openvino")
    found = choose_session(bundle, precision=precision)
    assert (found.backend, found.precision) == (backend, precision)
    assert found.reason.endswith(f"; {precision} asked for")


def test_openvino_never_replaces_a_gpu(bundle, monkeypatch):
    machine(monkeypatch, gpu=True, openvino=True)
    with pytest.raises(SessionError, match="an NVIDIA GPU is here and no TensorRT"):
        choose_session(bundle)


@needs_openvino
def test_openvino_is_found_and_opened_on_this_machine(bundle, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(choose, "has_nvidia_gpu", lambda: False)
    with open_session(bundle, threads=1) as session:
        assert session.num_phases == 2
    assert ", CPU, int8 (no NVIDIA GPU here; int8 is its fastest), 2 phase(s)" in caplog.text


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
    assert choose_session(bundle, "ort").reason == "ort asked for; float32 is its fastest"


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
    machine(monkeypatch, gpu=False, openvino=True)
    assert choose_session(bundle).precision == ("int8" if int8 else "float32")
    machine(monkeypatch, gpu=True, libraries=("tensorrt",))
    assert choose_session(bundle).precision == ("int8" if int8 else "float16")


def test_a_bundle_from_before_the_half_graph(bundle, tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="has no step_fp16 graph, it has clip, step, step_int8"):
        choose_session(bundle, "ort", "float16")
    machine(monkeypatch, gpu=True, libraries=("tensorrt",))
    assert choose_session(write_mini_bundle(tmp_path, int8=False)).precision == "float32"


def test_unknown_names_are_refused(bundle):
    with pytest.raises(ValueError, match="backend must be auto, ort, openvino, .* got 'cuda'"):
        choose_session(bundle, "cuda")
    with pytest.raises(
        ValueError, match="precision must be auto, float32, float16, int8, got 'fp4'"
    ):
        choose_session(bundle, "ort", "fp4")


def test_what_was_chosen_is_logged_with_its_reason(bundle, caplog):
    caplog.set_level(logging.INFO)
    with open_session(bundle, "ort", "float32") as session:
        assert session.num_phases == 2  # two frames a second: two phases decide four times
    assert "CPU, float32 (ort asked for; float32 asked for), 2 phase(s)" in caplog.text


def test_tensorrt_without_its_parts_says_so(bundle, monkeypatch):
    machine(monkeypatch, gpu=False)
    with pytest.raises(SessionError, match="tensorrt is not installed"):
        open_session(bundle, "tensorrt")
