"""NVIDIA's library as one module, `tensorrt` or `tensorrt_rtx`, and a record of what it says.

Both have one Python interface. They report failures only through a logger, of which a process may
register one; so there is one for each module, and it remembers.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard, cast

from runtime.nvidia_types import TensorRT, TensorRTRtx

if TYPE_CHECKING:
    import tensorrt as nv

logger = logging.getLogger(__name__)

Severity: TypeAlias = Literal["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]

MODULES = ("tensorrt", "tensorrt_rtx")
RECENT_ERRORS = 8
# Debian's Python packages, JetPack's TensorRT among them
SYSTEM_PACKAGES = Path("/usr/lib")


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

    def __init__(self, trt: TensorRT) -> None:
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
def message_log(trt: TensorRT) -> MessageLog:
    """The module's one log; a second logger would be ignored by the library."""
    return MessageLog(trt)


def find_tensorrt(names: Sequence[str] = MODULES) -> TensorRT | None:
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
            return cast(TensorRT, module)
    return None


def why_no_tensorrt(name: str = "tensorrt", *, system: Path = SYSTEM_PACKAGES) -> str:
    """What keeps this Python from importing NVIDIA's module, and what to do about it.

    Args:
        name: `tensorrt` or `tensorrt_rtx`.
        system: Folder with the system's Python versions; JetPack's packages are in it.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or err.name.split(".")[0] != name:
            return f"{name} cannot be imported ({err}); repair or reinstall it"
    except (ImportError, OSError, AttributeError) as err:
        return _broken(name, err)
    else:
        if hasattr(module, "Builder"):
            return f"{name} is here"
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    there = [path.parents[1].name for path in system.glob(f"python3*/dist-packages/{name}")]
    if own in there or "python3" in there:
        return (
            f"{name} is installed for the system's Python, and this environment ({sys.prefix}) "
            f"does not see it: make it again with /usr/bin/{own} -m venv --system-site-packages"
        )
    if there:
        return (
            f"{name} is installed for {', '.join(sorted(there))}, this is {own}: make the "
            f"environment with /usr/bin/{sorted(there)[-1]} -m venv --system-site-packages"
        )
    if name == "tensorrt":
        return (
            "tensorrt is not installed; on a Jetson it comes with JetPack (sudo apt install "
            "nvidia-jetpack; environments with --system-site-packages)"
        )
    return f"{name} is not installed; pip install 'tdrl-edge[rtx]' (x86-64)"


def _broken(name: str, err: Exception) -> str:
    """It is there and does not load."""
    text = str(err)
    if "numpy" in text.lower():
        return f"{name} is too old for this numpy ({text}): pip install 'numpy<1.24'"
    if isinstance(err, OSError) or ".so" in text:
        return f"{name} lacks a library ({text}): reinstall TensorRT, or check LD_LIBRARY_PATH"
    return f"{name} cannot be imported ({text}); repair or reinstall it"


def is_rtx(trt: TensorRT) -> TypeGuard[TensorRTRtx]:
    """Whether the module is TensorRT-RTX, which builds for named GPUs and without any."""
    return hasattr(trt, "ComputeCapability")


def library_version(trt: TensorRT) -> str:
    """Name and version of the library, `tensorrt 10.3.0`: plans work with exactly this one."""
    return f"{trt.__name__} {trt.__version__}"


def _forwarding_logger(trt: TensorRT, receive: Callable[[Severity, str], None]) -> nv.ILogger:
    """An `ILogger` that hands severity name and text on."""

    class Forwarding(trt.ILogger):  # type: ignore[misc, name-defined]  # found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: nv.ILogger.Severity, msg: str) -> None:
            receive(cast(Severity, severity.name), msg)

    made: nv.ILogger = Forwarding()
    return made
