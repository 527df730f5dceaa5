"""What the sessions on a CPU promise alike, whichever engine computes."""

import numpy as np
import pytest

from runtime.bundle import load_bundle, load_golden
from runtime.errors import BundleError, SessionError
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.openvino_part import needs_openvino

ONE = np.ones((1, 1), np.float32)
ZERO = np.zeros((1, 1), np.float32)


@pytest.fixture(params=[OrtStepSession, pytest.param(OvStepSession, marks=needs_openvino)])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"))


def test_logits_are_the_callers_own(kind, bundle):
    golden = load_golden(bundle)
    with kind(bundle) as session:
        first = session.step(0, golden.frames[:1], ONE)
        kept = first.copy()
        session.step(0, golden.frames[1:2], ZERO)
    np.testing.assert_array_equal(first, kept)


def test_wrong_calls_say_what_is_wanted(kind, bundle):
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    with kind(bundle, phases=2) as session:
        with pytest.raises(ValueError, match=r"phase must be 0 ... 1, got 2"):
            session.step(2, frames, ONE)
        with pytest.raises(ValueError, match=r"frames must be uint8 \(1, 32, 32, 3\), got float32"):
            session.step(0, frames.astype(np.float32), ONE)
        with pytest.raises(ValueError, match=r"reset must be float32 \(1, 1\), got float32 \(1,\)"):
            session.step(0, frames, ONE[0])
    with pytest.raises(SessionError, match="this session is closed"):
        session.step(0, frames, ONE)
    session.close()
    with pytest.raises(ValueError, match="phases and threads must be >= 1, got 0"):
        kind(bundle, phases=0)
    with pytest.raises(ValueError, match="phases and threads must be >= 1, got 1 and 0"):
        kind(bundle, threads=0)


def test_labels_that_do_not_fit_are_refused(kind, tmp_path):
    bundle = write_mini_bundle(tmp_path)
    write_manifest(bundle, labels=["a", "b"])
    with pytest.raises(
        BundleError, match="labels do not fit: .* lists 2 labels, step.onnx gives 3"
    ):
        kind(load_bundle(tmp_path))
