"""What a decision costs on this machine: every table that the project's speed rests on.

    python -m export.bench                          # ResNet-18, ResNet-50, Lite0: 10 min
    python -m export.bench --effort full            # every backbone: bench-full.md, 25 min
    python -m export.bench --only decision parts    # some tables, printed and not stored
    python -m export.bench --compare docs/measurements/bench.json

Compared with an earlier run, numbers agree where their spreads overlap, each widened by
what a machine drifts between runs; status 1 where a ratio does not. Times of another machine
differ, ratios should not by much.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.bench import needed
from export.bench.compare import compare, read_run
from export.bench.effort import EFFORTS
from export.bench.run import REPORT_NAME, TABLES, run, write
from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.errors import ExportError

OUT = ARTIFACTS.parent / "docs" / "measurements"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m export.bench`; returns its status."""
    options = _parser().parse_args(argv)
    before = None if options.compare is None else read_run(options.compare)
    names = options.only or list(TABLES)
    report = run(names, EFFORTS[options.effort], lambda table: say(table.markdown()))
    say(needed.as_markdown(report.values))
    say(f"\n{report.measured}")
    out = options.out or (None if options.only or before is not None else OUT)
    if out is not None:
        name = REPORT_NAME if options.effort == "standard" else f"{REPORT_NAME}-{options.effort}"
        say(f"written to {write(report, out, name)}")
    if before is None:
        return 0
    comparison = compare(before, report.values)
    say(comparison.text())
    ratios = [key for key, (_, new) in comparison.differ.items() if new.unit == "x"]
    if ratios:
        raise ExportError(f"{len(ratios)} ratios do not agree with {options.compare}: see above")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--effort", choices=tuple(EFFORTS), default="standard", help="(%(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(TABLES), metavar="NAME", help=f"of {', '.join(TABLES)}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write JSON, Markdown and plots there (docs/measurements; with --only or --compare "
        "nothing is written without it)",
    )
    parser.add_argument("--compare", type=Path, metavar="JSON", help="an earlier run")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
