"""OpenVINO where it is installed, tests skip by name elsewhere; and the memory of a session."""

from __future__ import annotations

import importlib.util

import pytest

from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from runtime.sessions.step_io import Arrays

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


def memory_of(session: OrtStepSession | OvStepSession, turn: int) -> tuple[Arrays, Arrays]:
    """What the first phase's engine reads and writes at every second step, by name."""
    assert session._buffers is not None
    return session._buffers.bound(0, turn)
