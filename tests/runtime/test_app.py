"""What a run does before its first frame: the session it starts with."""

import pytest

from runtime import app
from runtime.errors import SessionError
from runtime.sessions.choose import SessionChoice
from runtime.sessions.ort import OrtStepSession
from tests.mini_bundle import write_mini_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_mini_bundle(tmp_path)


@pytest.fixture
def opened(bundle, monkeypatch):
    """OpenVINO is here and wrong: its session is not, only its name. Names what was opened."""
    names: list[str] = []

    def choose(_, backend, precision):
        if backend == "ort":
            return SessionChoice("ort", "float32", "a test")
        return SessionChoice("openvino", "int8", "a test")

    def open_named(bundle, choice, *args, **kwargs):
        names.append(choice.backend)
        return OrtStepSession(bundle, choice.precision)

    def self_test(bundle, session, precision):
        if names[-1] == "openvino":
            raise SessionError("self-test failed at golden step 3 of 12")

    monkeypatch.setattr(app, "choose_session", choose)
    monkeypatch.setattr(app, "open_chosen", open_named)
    monkeypatch.setattr(app, "run_self_test", self_test)
    return names


def test_onnx_runtime_takes_over_where_openvino_is_wrong_and_nobody_asked_for_it(
    bundle, opened, caplog
):
    options = app.StreamOptions(source="x.mp4", bundle=bundle.folder)
    with app._session(bundle, options) as session:
        assert isinstance(session, OrtStepSession)
    assert opened == ["openvino", "ort"]
    assert "self-test failed at golden step 3 of 12; ONNX Runtime takes over" in caplog.text


def test_who_asked_for_openvino_gets_the_error(bundle, opened):
    options = app.StreamOptions(source="x.mp4", bundle=bundle.folder, backend="openvino")
    with pytest.raises(SessionError, match="golden step 3"):
        app._session(bundle, options)
    assert opened == ["openvino"]
