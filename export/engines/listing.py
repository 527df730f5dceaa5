"""What lies in the engine folder, and which of it this machine may run for a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.engine import SUFFIX, EngineKey, load_engine
from runtime.errors import EngineError


@dataclass(frozen=True)
class ListedEngine:
    """One plan in the folder.

    Attributes:
        path: Where it lies.
        size_bytes: Size of the plan.
        key: What it was built for; None if it cannot be read or trusted.
        refusals: Why it is not run; empty if it is.
    """

    path: Path
    size_bytes: int
    key: EngineKey | None
    refusals: tuple[str, ...]

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.size_bytes / 1e6:.1f} MB"
        if self.key is None:
            return f"{self.path.name}  {size}  refused: {'; '.join(self.refusals)}"
        key = self.key
        facts = (
            f"{key.precision}, {key.num_streams} stream(s), {key.gpu} {key.compute_capability}, "
            f"{key.library}"
        )
        verdict = f"refused: {'; '.join(self.refusals)}" if self.refusals else "fits"
        return f"{self.path.name}  {size}  {facts}  {verdict}"


def list_engines(folder: Path, wanted: Sequence[EngineKey]) -> tuple[ListedEngine, ...]:
    """Every engine of a folder with its verdict.

    Args:
        folder: The engine folder; may be missing.
        wanted: Keys of the engines that this machine would run for the bundle. An engine is
            compared with the one that it is nearest to.
    """
    plans = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    return tuple(_listed(path, wanted) for path in plans)


def _listed(path: Path, wanted: Sequence[EngineKey]) -> ListedEngine:
    size_bytes = path.stat().st_size
    try:
        key = load_engine(path).key
    except EngineError as err:
        return ListedEngine(path, size_bytes, None, (str(err),))
    reasons = [key.refusals(other) for other in wanted]
    nearest = min(reasons, key=len, default=["nothing here to run it: no TensorRT or no GPU"])
    return ListedEngine(path, size_bytes, key, tuple(nearest))
