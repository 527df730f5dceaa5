"""Memory of a runtime with N streams, in a process of its own: `python -m export.bench.resident`.

    python -m export.bench.resident BUNDLE STREAMS BACKEND PRECISION

Prints resident megabytes with the runtime imported, with the session open, and after 20 steps.
Nothing but the runtime is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import runtime.live  # noqa: F401  the runtime's own imports are part of what is measured
from runtime.bundle import load_bundle
from runtime.command import run_command, say
from runtime.sessions.choose import choose_session, open_chosen

STEPS = 20
BYTES_PER_MB = 1e6


def resident_mb() -> float:
    """Resident memory of this process, megabytes.

    Raises:
        OSError: A system without /proc.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kilobytes * 1024 / BYTES_PER_MB


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    folder, streams, backend, precision = sys.argv[1:] if argv is None else argv
    found = [resident_mb()]
    bundle = load_bundle(Path(folder), verify=False)
    choice = choose_session(bundle, backend, precision)
    count = int(streams)
    with open_chosen(bundle, choice, 1, num_streams=count, threads=1) as session:
        found.append(resident_mb())
        rule = bundle.picture
        frames = np.zeros((count, rule.height_px, rule.width_px, 3), np.uint8)
        for _ in range(STEPS):
            session.step(0, frames, np.zeros((count, 1), np.float32))
        found.append(resident_mb())
    say(" ".join(f"{value:.1f}" for value in found))


if __name__ == "__main__":
    sys.exit(run_command(main))
