"""NVIDIA's library as one module, `tensorrt` or `tensorrt_rtx`, and a record of what it says.

Both have one Python interface. They report failures only through a logger, of which a process may
register one; so there is one for each module, and it remembers.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, TypeAlias

logger = logging.getLogger(__name__)

Severity: TypeAlias = Literal["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]

MODULES = ("tensorrt", "tensorrt_rtx")
RECENT_ERRORS = 8


@dataclass(frozen=True)
class LogMessage:
    """One message of NVIDIA's library; the text may have many lines."""

    severity: Severity
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it reports a failure."""
        return self.severity in ("INTERNAL_ERROR", "ERROR")


class MessageLog:
    """The one logger of a module.

    Between `recording()` calls warnings and errors go to Python's logging; within one, everything
    goes into its list. The builder logs from threads of its own.

    Attributes:
        trt_logger: What `Builder` and `Runtime` take.
    """

    def __init__(self, trt: ModuleType) -> None:
        self._recording: list[LogMessage] | None = None
        self._one_recording = threading.Lock()
        self._recent_errors: deque[str] = deque(maxlen=RECENT_ERRORS)
        self.trt_logger = _forwarding_logger(trt, self._receive)

    @contextmanager
    def recording(self) -> Iterator[list[LogMessage]]:
        """Give the list that all messages of the `with` block go to.

        Recordings of other threads wait: two builds at once could not be told apart.
        """
        with self._one_recording:
            messages: list[LogMessage] = []
            self._recording = messages
            try:
                yield messages
            finally:
                self._recording = None

    def take_errors(self) -> list[str]:
        """The last errors since the previous call, oldest first."""
        errors = list(self._recent_errors)
        self._recent_errors.clear()
        return errors

    def _receive(self, severity: Severity, text: str) -> None:
        message = LogMessage(severity, text)
        if message.is_error:
            self._recent_errors.append(text)
        recording = self._recording
        if recording is not None:
            recording.append(message)
        elif message.is_error or severity == "WARNING":
            logger.log(logging.ERROR if message.is_error else logging.WARNING, "%s", text)


@cache
def message_log(trt: ModuleType) -> MessageLog:
    """The module's one log; a second logger would be ignored by the library."""
    return MessageLog(trt)


def find_tensorrt(names: Sequence[str] = MODULES) -> ModuleType | None:
    """The first NVIDIA module that is installed and complete, else None.

    A module without `Builder` does not count: type stubs leave an importable empty namespace.
    """
    for name in names:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, AttributeError) as err:
            # OSError: a library is missing; AttributeError: TensorRT 8 on a newer numpy
            logger.debug("%s cannot be imported: %s", name, err)
            continue
        if hasattr(module, "Builder"):
            return module
    return None


def is_rtx(trt: ModuleType) -> bool:
    """Whether the module is TensorRT-RTX, which builds for named GPUs and without any."""
    return hasattr(trt, "ComputeCapability")


def library_version(trt: ModuleType) -> str:
    """Name and version of the library, `tensorrt 10.3.0`: plans work with exactly this one."""
    return f"{trt.__name__} {trt.__version__}"


def _forwarding_logger(trt: ModuleType, receive: Any) -> Any:
    """An `ILogger` that hands severity name and text on."""

    class Forwarding(trt.ILogger):  # type: ignore[misc, name-defined]  # found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            receive(severity.name, msg)

    return Forwarding()
