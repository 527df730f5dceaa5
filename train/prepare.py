"""Look at a data set before training: what is in it, what is wrong with it, and a page to see it.

    python -m train.prepare --data my_data
    python -m train.prepare --data my_data --cache my_data.cache --short-side 256
    python -m train.prepare --data recordings.yaml --folds 5 --folds-out folds.csv

Every split is read and every recording opened once. Clips per class, lengths, unreadable files,
label mismatches and leaks between splits are listed; `index.html` shows charts and sample frames.
The status is 1 where training would refuse the data, or its accuracy would be a lie.

--cache decodes all recordings once into small pictures; training reads them where the recipe says
`cache: DIR`. It can be stopped and goes on where it was. --folds writes whole recordings (or
sessions) into K folds for `folds:` and `fold:` in data.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.errors import DataError
from train.data.check import Survey, survey
from train.data.check_findings import findings_of
from train.data.check_page import write_page
from train.data.check_read import format_of
from train.data.check_summary import short_name, summary_line, table
from train.data.entry import VideoSegment
from train.data.finding import Finding
from train.data.folds import grouped_folds, write_folds
from train.data.formats.spec import DATA_YAML, DataSpec, read_spec
from train.data.frame_cache import SHORT_SIDE_PX
from train.data.loader import num_workers
from train.prepare_cache import check_cache_place, fill_cache, gigabytes

MOST_CLASSES = 30  # of the folds' table


def make_folds(seen: Survey, num_folds: int, path: Path) -> str:
    """Write the folds of training and validation together.

    Args:
        seen: The data.
        num_folds: K, >= 2.
        path: The csv file.

    Returns:
        A table of the clips of each class and fold.

    Raises:
        DataError: Arrays, no clips, or fewer recordings than folds.
    """
    spec = replace(seen.spec, folds=None, fold=None)
    segments = _both_splits(seen)
    if not segments:
        raise DataError(
            f"{seen.spec.where} has no recordings for folds; clips in arrays cannot be folded"
        )
    folds = grouped_folds(segments, num_folds)
    counts = {label: [0] * num_folds for label in seen.labels}
    for segment in segments:
        counts[seen.labels[segment.label]][folds[segment.path]] += 1
    by_group = {segment.group: folds[segment.path] for segment in segments if segment.group}
    for listed, group in _listed(spec):
        # recordings of dropped classes, or that are missing: the file must name them all
        folds.setdefault(listed, by_group.get(group, 0))
    write_folds(path, folds, spec.root)
    return _fold_table(counts, num_folds)


def _both_splits(seen: Survey) -> list[VideoSegment]:
    """Clips of train and validation."""
    splits = [seen.splits[name] for name in ("train", "validation") if name in seen.splits]
    return [segment for split in splits for segment in split.segments]


def _listed(spec: DataSpec) -> list[tuple[Path, str]]:
    """All recordings of train and validation as the lists name them, and their groups."""
    kind = format_of(spec)
    return [
        (clip.path, clip.group)
        for split in ("train", "validation")
        for clip in kind.clips(spec, split)
    ]


def _fold_table(counts: dict[str, list[int]], num_folds: int) -> str:
    shown = list(counts.items())[:MOST_CLASSES]
    width = max(5, *(len(short_name(label)) for label, _ in shown))
    lines = [f"{'class':<{width}}" + "".join(f"{f'fold {i}':>9}" for i in range(num_folds))]
    lines += [
        f"{short_name(label):<{width}}" + "".join(f"{number:>9}" for number in found)
        for label, found in shown
    ]
    if len(counts) > len(shown):
        lines.append(f"… and {len(counts) - len(shown)} more classes")
    totals = [sum(found[i] for found in counts.values()) for i in range(num_folds)]
    lines.append(f"{'all':<{width}}" + "".join(f"{number:>9}" for number in totals))
    return "\n".join(lines)


def default_out(data: Path) -> Path:
    """Where the page goes: artifacts/prepare/NAME."""
    path = data.absolute()
    if path.name == DATA_YAML:
        path = path.parent
    name = path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name
    return ARTIFACTS / "prepare" / (name or "data")


def _require_outside(out: Path, spec: DataSpec) -> None:
    """Nothing is written into the data.

    Raises:
        ValueError: The page would lie in the data folder.
    """
    if out.resolve().is_relative_to(spec.root.resolve()):
        raise ValueError(f"--out {out} lies in the data folder {spec.root}; give one outside of it")


def _last_line(findings: Sequence[Finding], page: Path, data: Path, folds: Path | None) -> str:
    if any(finding.severity == "error" for finding in findings):
        return f"page: {page}; next: mend the errors above and run this again"
    if folds is not None:
        return f"page: {page}; next: folds: {folds} and fold: 0 in a data.yaml, then make train"
    return f"page: {page}; next: make train DATA={data} RECIPE=own"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder or yaml file")
    parser.add_argument(
        "--out", type=Path, help="folder of the page (default: artifacts/prepare/NAME)"
    )
    parser.add_argument(
        "--num-segments", type=int, default=8, metavar="T", help="frames of a clip (default: 8)"
    )
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        help="decode the first, middle and last frame of every clip (default: of all where there "
        "are fewer than 2000 recordings, else of a sample)",
    )
    parser.add_argument(
        "--workers", default="auto", help="processes that read (default: auto, the cores but one)"
    )
    cache = parser.add_argument_group("decoded cache")
    cache.add_argument("--cache", type=Path, metavar="DIR", help="decode all recordings into DIR")
    cache.add_argument(
        "--short-side",
        type=int,
        default=SHORT_SIDE_PX,
        metavar="PX",
        help=f"short side of its pictures (default: {SHORT_SIDE_PX})",
    )
    folds = parser.add_argument_group("folds")
    folds.add_argument("--folds", type=int, metavar="K", help="put recordings into K folds")
    folds.add_argument(
        "--folds-out",
        type=Path,
        metavar="CSV",
        help="their file (default: folds.csv beside the page)",
    )
    return parser


def _options(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked before anything is opened."""
    given = _parser().parse_args(argv)
    given.workers = num_workers("auto" if given.workers == "auto" else int(given.workers))
    if given.num_segments < 1:
        raise ValueError(f"--num-segments must be >= 1, got {given.num_segments}")
    if given.short_side < 8:
        raise ValueError(f"--short-side must be >= 8, got {given.short_side}")
    if given.folds is not None and given.folds < 2:
        raise ValueError(f"--folds must be >= 2, got {given.folds}")
    if given.folds_out is not None and given.folds is None:
        raise ValueError("--folds-out needs --folds K")
    given.out = given.out or default_out(given.data)
    return given


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m train.prepare`; 1 where there are errors."""
    given = _options(argv)
    _require_outside(given.out, read_spec(given.data))
    seen = survey(given.data, decode=given.decode, workers=given.workers)
    if given.cache is not None:
        check_cache_place(seen, given.cache)
    findings = findings_of(seen, given.num_segments)
    page = write_page(seen, findings, given.out)
    say(table(seen, findings))
    folds = None
    if given.folds is not None:
        folds = (given.folds_out or given.out / "folds.csv").absolute()
        say(f"\n{make_folds(seen, given.folds, folds)}\nfolds: {folds}")
    if given.cache is not None:
        done = fill_cache(seen, given.cache, given.short_side, workers=given.workers)
        for problem in done.problems:
            say(f"not in the cache: {problem}")
        say(
            f"cache: {given.cache}, {done.written} recordings written, {done.kept} were there, "
            f"{gigabytes(done.size_bytes)}; cache: {given.cache} in the recipe uses it"
        )
    say(f"{summary_line(findings)}\n{_last_line(findings, page, given.data, folds)}")
    return int(any(finding.severity == "error" for finding in findings))


if __name__ == "__main__":
    sys.exit(run_command(main))
