"""The main job, start to end: data, training, evaluation, export, INT8, engine check, live tape.

    make demo                    or   python -m export.demo
    RTX=1 make demo              with NVIDIA's builder (TensorRT-RTX, proprietary wheel)

Every stage is a command that also works alone; the demo runs them in order, collects what they
measured and prints one table. It fails if an accuracy or equality is missed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from export.demo_sheet import draw_contact_sheet
from export.demo_table import Row, markdown_table, rows_of
from export.engines.build_log import nvidia_build_check
from export.report.nvidia import nvidia_part
from export.report.verdict import REPORT
from export.report_page import update_report
from export.step_cost import measure, measure_backbone
from runtime.artifacts import ARTIFACTS
from runtime.bundle import Bundle, load_bundle
from runtime.command import run_command, say
from runtime.errors import ExportError, GateError
from runtime.files import whole_file, write_json
from runtime.nvidia import find_tensorrt
from train.data.catalog import load_tape
from train.live_evaluation import score_tape
from train.live_events import Event

ROOT = ARTIFACTS.parent
DATA = ARTIFACTS / "data" / "arrow_of_time"
RUN = ARTIFACTS / "demo"
CONTROL = RUN / "control"  # inside the run: `artifacts/latest` never points at it


@dataclass(frozen=True)
class Paths:
    """Where the demo's parts are.

    Attributes:
        data: The data set.
        run: The demo's run.
        control: The control's run.
    """

    data: Path = DATA
    run: Path = RUN
    control: Path = CONTROL


def run_demo(paths: Paths, *, sizes: Sequence[str] = (), overrides: Sequence[str] = ()) -> Path:
    """Run all stages and write `results.json`, `results.md` and `sheet.png` into the run's folder.

    Args:
        paths: Where everything goes.
        sizes: Further arguments of the data set's command, for a smaller one.
        overrides: `FIELD=VALUE` changes to both recipes.

    Returns:
        The folder with the results.

    Raises:
        TdrlError: A stage failed.
        GateError: A result that must be reached was missed.
    """
    started = time.monotonic()
    results = paths.run / "demo"
    shutil.rmtree(results, ignore_errors=True)
    seconds = _train_and_export(paths, sizes, overrides)
    bundle = load_bundle(paths.run / "bundle")
    check = timed(seconds, "NVIDIA build check", lambda: build_check(bundle))
    seconds["live tape"] = _stream_tape(paths, results)
    live = _judge_tape(bundle, paths, results)
    costs = timed(
        seconds,
        "step cost",
        lambda: [_bundle_cost(bundle), measure_backbone("resnet18", 112).to_json()],
    )
    facts = {
        "evaluation": _read(paths.run / "evaluation" / "evaluation.json"),
        "control": _read(paths.control / "evaluation" / "evaluation.json"),
        "report": _read(bundle.folder / REPORT),
        "live": live,
        "nvidia": check,
        "cost": costs,
        "seconds": {**seconds, "total": time.monotonic() - started},
    }
    rows = rows_of(facts)
    write_json(results / "results.json", facts)
    with whole_file(results / "results.md") as part:
        part.write_text(markdown_table(rows, facts), encoding="utf-8")
    say("\n" + markdown_table(rows, facts))
    _require_reached(rows)
    return results


def _train_and_export(
    paths: Paths, sizes: Sequence[str], overrides: Sequence[str]
) -> dict[str, float]:
    """The stages before the bundle, each as its own command; seconds by stage."""
    data = ["--data", str(paths.data)]
    changes = [word for change in overrides for word in ("--set", change)]

    def fit(recipe: str, run: Path) -> float:
        where = ["--recipe", recipe, "--out", str(run), "--name", run.name, "--overwrite"]
        return stage("-m", "train.fit", *where, *data, *changes)

    def evaluate(run: Path) -> float:
        return stage("-m", "train.evaluate", "--checkpoint", str(_best(run)), *data)

    return {
        "data": stage("-m", "train.data.arrow_of_time", "--out", str(paths.data), *sizes),
        "control": fit("demo-control", paths.control) + evaluate(paths.control),
        "training": fit("demo", paths.run),
        "evaluation": evaluate(paths.run),
        "export": stage(
            "-m", "export.bundle", "--checkpoint", str(_best(paths.run)), *data,
            "--out", str(paths.run / "bundle"),
        ),
    }  # fmt: skip


def _stream_tape(paths: Paths, results: Path) -> float:
    """The tape through the real runtime; the seconds it took."""
    video = paths.data / "tape" / "tape.mp4"
    return stage(
        str(ROOT / "runtime" / "stream.py"), "--source", str(video), "--headless",
        "--bundle", str(paths.run / "bundle"), "--log-level", "warning", "--precision", "int8",
        "--events", str(results / "events.jsonl"), "--output", str(results / "annotated.mp4"),
    )  # fmt: skip


def stage(*arguments: str) -> float:
    """Run one command with this Python, shown as a user would type it; the seconds it took.

    Raises:
        ExportError: It failed; it has said why itself.
    """
    say("\n$ python " + shlex.join(_short(word) for word in arguments))
    started = time.monotonic()
    status = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode
    if status != 0:
        raise ExportError(f"the demo stopped: {' '.join(arguments[:2])} ended with status {status}")
    return time.monotonic() - started


def timed(seconds: dict[str, float], name: str, work: Any) -> Any:
    """Run a stage of this process and note its seconds."""
    say(f"\n# {name}")
    started = time.monotonic()
    found = work()
    seconds[name] = time.monotonic() - started
    return found


def build_check(bundle: Bundle) -> dict[str, Any] | None:
    """Let NVIDIA's builder prove that all convolutions run on INT8; None where it is missing.

    Raises:
        ExportError: A convolution is not on INT8, or the builder warned of something.
        EngineError: The builder refused the graph.
    """
    if find_tensorrt(("tensorrt_rtx",)) is None:
        say("NVIDIA build check skipped: tensorrt_rtx is not installed (RTX=1 make demo)")
        return None
    meant = _read(bundle.folder / REPORT)["quantisation"]["int8_convolutions"]
    check = nvidia_build_check(bundle.graph_path("step_int8"), compute_capability="SM86")
    say(str(check))
    part = nvidia_part(check, meant, "SM86")
    update_report(bundle.folder, nvidia=part)
    return part


def decisions_of(events: Path) -> list[SimpleNamespace]:
    """The decisions of an event log, in order; what live scoring reads of them."""
    return [SimpleNamespace(**line) for line in _lines_of(events, "decision")]


def events_of(events: Path, labels: Sequence[str]) -> list[Event]:
    """The actions that an event log reports, in order."""
    return [
        Event(line["start_s"], line["end_s"], labels.index(line["label"]))
        for line in _lines_of(events, "action")
    ]


def _lines_of(events: Path, kind: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in events.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["type"] == kind]


def _judge_tape(bundle: Bundle, paths: Paths, results: Path) -> dict[str, Any]:
    """What the real runtime scored on the tape, from its own event log, and the contact sheet."""
    _, truth = load_tape(paths.data, "tape", bundle.labels)
    log = results / "events.jsonl"
    decisions, events = decisions_of(log), events_of(log, bundle.labels)
    draw_contact_sheet(results / "annotated.mp4", truth, decisions, results / "sheet.png")
    return score_tape(bundle, decisions, truth, events).to_json()


def _bundle_cost(bundle: Bundle) -> dict[str, Any]:
    graphs = (bundle.graph_path("step"), bundle.graph_path("clip"))
    return measure("the demo model", *graphs, bundle.graph("step").states).to_json()


def _require_reached(rows: Sequence[Row]) -> None:
    missed = [row.what for row in rows if row.must and row.reached is False]
    if missed:
        raise GateError(f"the demo missed: {', '.join(missed)}")


def _best(run: Path) -> Path:
    return run / "checkpoint" / "best.ckpt"


def _short(word: str) -> str:
    """Paths as a user at the repository's root would write them."""
    path = Path(word)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else word


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--record", type=Path, help="copy the table to this Markdown file too")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.demo`."""
    options = _parser().parse_args(argv)
    results = run_demo(Paths())
    if options.record:
        with whole_file(options.record) as part:
            table = (results / "results.md").read_text(encoding="utf-8")
            part.write_text(f"# What `make demo` reaches\n\n{table}", encoding="utf-8")
    try:
        shown = results.relative_to(Path.cwd())
    except ValueError:
        shown = results
    say(
        f"pictures: {shown}/sheet.png, video: {shown}/annotated.mp4; "
        "next: make stream CAMERA=0 (the demo model knows only the demo's actions)"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
