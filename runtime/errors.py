"""Everything that can go wrong in the world, as one small hierarchy.

    TdrlError
    ├── BundleError        a bundle folder cannot be used
    ├── SourceError        a camera, stream or file cannot be opened or read
    │   ├── SourceRefusedError it is there and refuses user or password
    │   └── SourceLostError    it worked and stopped working
    ├── EngineError        an engine cannot be built, loaded or trusted
    ├── SessionError       an inference session cannot be made or run
    ├── OutputError        a window or video cannot be shown or written
    ├── PolicyError        a policy file cannot be used
    ├── DataError          a data set cannot be used
    ├── CheckpointError    a checkpoint cannot be used
    └── ExportError        a graph cannot be exported or quantised
        └── GateError          it was exported, and is not good enough to ship

Wrong arguments are `ValueError` and `TypeError`. A message says what was wrong, the value that
was received, what is accepted and what to do; commands print it as their one last line.
"""

from __future__ import annotations


class TdrlError(Exception):
    """Base of all errors a user can cause or meet; commands print it without a traceback."""


class BundleError(TdrlError):
    """A bundle folder is missing, incomplete, changed or of another schema."""


class SourceError(TdrlError):
    """A camera, stream or file cannot be opened or read."""


class SourceRefusedError(SourceError):
    """A camera refuses user or password; asking often makes some lock the account."""


class SourceLostError(SourceError):
    """A source that delivered frames stopped delivering them."""


class EngineError(TdrlError):
    """A TensorRT engine cannot be built, loaded or trusted."""


class SessionError(TdrlError):
    """An inference session cannot be made or run."""


class OutputError(TdrlError):
    """A window cannot be shown, or a video cannot be written."""


class PolicyError(TdrlError):
    """A policy file cannot be read or does not fit the bundle; `problems` lists all that is wrong.

    Args:
        problems: What is wrong, a line each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DataError(TdrlError):
    """A data set is empty, unreadable or does not fit its labels."""


class CheckpointError(TdrlError):
    """A checkpoint is missing, damaged or of another architecture."""


class ExportError(TdrlError):
    """A model cannot be exported or quantised."""


class GateError(ExportError):
    """An exported graph loses more accuracy than is allowed."""
