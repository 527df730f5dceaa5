"""Where results land: artifacts/NAME/{checkpoint,bundle}, and `artifacts/latest`."""

from __future__ import annotations

import os
from pathlib import Path

ARTIFACTS = Path(__file__).resolve().parent.parent / "artifacts"
LATEST = "latest"


def default_bundle() -> Path:
    """The newest run's bundle, whether it exists or not."""
    return ARTIFACTS / LATEST / "bundle"


def default_checkpoint() -> Path:
    """The newest run's best checkpoint, whether it exists or not."""
    return ARTIFACTS / LATEST / "checkpoint" / "best.ckpt"


def point_latest(run: Path) -> None:
    """Let `artifacts/latest` point at a run's folder; runs elsewhere leave it alone.

    Args:
        run: The run's folder, which holds `checkpoint` or `bundle`.
    """
    run = run.resolve()
    if run.parent != ARTIFACTS.resolve():
        return
    part = ARTIFACTS / f".{LATEST}.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(run.name, target_is_directory=True)
    part.replace(ARTIFACTS / LATEST)
