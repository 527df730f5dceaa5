"""The ablation: what each part of TDRL is worth on hard data, several seeds, one table and a plot.

    make ablation                  or   python -m train.ablation
    make ablation-gpu              or   python -m train.ablation --rows all
    python -m train.ablation --rows tsm,tdrl --seeds 2 --out /tmp/ablation

Every row is trained from scratch by the recipe `ablation` on the hard arrow of time, the last
epoch's weights are measured, and nothing is chosen on the validation clips. A run that is finished
is kept, so an interrupted ablation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.files import whole_file, write_json
from runtime.machine import measured_on
from train.data.arrow_hard import Hardness, Sizes, build
from train.experiment import ROOT, command, keep, kept, run_all

DATA = ARTIFACTS / "data" / "arrow_hard"
RUNS = ARTIFACTS / "ablation"
DOCS = ROOT / "docs"
RECIPE = "ablation"
RESULT = "result.json"


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        key: Short name, for the command line and folders.
        title: What it is, for people.
        group: Heading in the table.
        changes: Recipe fields that differ from the recipe `ablation`, as YAML text.
    """

    key: str
    title: str
    group: str
    changes: dict[str, str] = field(default_factory=dict)


MODELS = "Models"
BASELINES = "Baselines"
CPU_ROWS = (
    Row("tsn", "TSN (no temporal module)", MODELS, {"preset": "tsn"}),
    Row("tsm", "TSM, causal", MODELS, {"preset": "tsm"}),
    Row("teinet", "TEINet, causal", MODELS, {"preset": "teinet"}),
    Row("tdrl-no-td", "TDRL without TD loss, causal", MODELS, {"td_loss": "0"}),
    Row("tdrl", "TDRL, causal", MODELS),
)
_NO_PEM = {"pem": "false"}
_LOOKAHEAD = {"form": "lookahead"}
GPU_ROWS = (
    Row("gru", "TSN + GRU on pooled features", BASELINES, {"preset": "tsn", "head": "gru"}),
    Row(
        "tconv",
        "TSN + causal convolution over time on pooled features",
        BASELINES,
        {"preset": "tsn", "head": "tconv"},
    ),
    Row("td-25", "TSM + TD loss, 25 % of channels", "TD loss", {**_NO_PEM, "td_ratio": "0.25"}),
    Row("td-50", "TSM + TD loss, 50 %", "TD loss", _NO_PEM),
    Row("td-75", "TSM + TD loss, 75 %", "TD loss", {**_NO_PEM, "td_ratio": "0.75"}),
    Row("td-100", "TSM + TD loss, 100 %", "TD loss", {**_NO_PEM, "td_ratio": "1.0"}),
    Row("td-before", "TSM + TD loss before TM", "TD loss", {**_NO_PEM, "td_after": "false"}),
    Row("lambda-1", "TSM + TD loss, λ 1e-4", "TD loss", {**_NO_PEM, "td_loss": "1e-4"}),
    Row("lambda-3", "TSM + TD loss, λ 3e-4", "TD loss", {**_NO_PEM, "td_loss": "3e-4"}),
    Row("lambda-4", "TSM + TD loss, λ 4e-4", "TD loss", {**_NO_PEM, "td_loss": "4e-4"}),
    Row("pem-after", "PEM after TM", "PEM", {"pem_first": "false"}),
    Row("pem-only", "PEM without TM", "PEM", {"temporal": "none", "td_loss": "0"}),
    Row("tsm-lookahead", "TSM, lookahead", "Causality", {"preset": "tsm", **_LOOKAHEAD}),
    Row("teinet-lookahead", "TEINet, lookahead", "Causality", {"preset": "teinet", **_LOOKAHEAD}),
    Row("tdrl-lookahead", "TDRL, lookahead, m_0 = 0", "Causality", _LOOKAHEAD),
    Row(
        "tdrl-lookahead-m0",
        "TDRL, lookahead, m_0 = d_{T-1} (the paper's)",
        "Causality",
        {**_LOOKAHEAD, "start_motion": "last_difference"},
    ),
    Row(
        "vsn",
        "Video Shuffle Network, lookahead",
        "Causality",
        {
            "temporal": "vsn",
            "pem": "false",
            "td_loss": "0",
            **_LOOKAHEAD,
        },
    ),
)
ROWS = CPU_ROWS + GPU_ROWS


@dataclass(frozen=True)
class Outcome:
    """One finished run.

    Attributes:
        row: The row's key.
        seed: Its seed.
        top1: Clip top-1 over all classes, 0..1.
        pairs: Top-1 on exact forward/reverse pairs, 0..1: 0.5 is blind to order.
        train_s: Seconds of training.
    """

    row: str
    seed: int
    top1: float
    pairs: float
    train_s: float


def ablate(
    rows: Sequence[Row], seeds: Sequence[int], runs: Path, *, jobs: int, sets: Sequence[str] = ()
) -> list[Outcome]:
    """Train and measure every row with every seed.

    Args:
        rows: What to compare.
        seeds: Seeds of weights, order and dropout; the data stay the same.
        runs: Folder of the runs; finished ones are kept.
        jobs: Runs at a time.
        sets: Further `FIELD=VALUE` changes to every row.

    Raises:
        DataError: A run failed; its last line says why.
    """
    data = runs.parent / "data" / "arrow_hard" if runs != RUNS else DATA
    build(data, 0, Sizes(), Hardness())
    # seeds outside, rows inside: an early look compares like with like
    tasks = [(row, seed) for seed in seeds for row in rows]
    return run_all(
        tasks,
        lambda task: _one(*task, data=data, runs=runs, sets=sets, jobs=jobs),
        jobs=jobs,
        title="ablation",
    )


def _one(row: Row, seed: int, *, data: Path, runs: Path, sets: Sequence[str], jobs: int) -> Outcome:
    run = runs / f"{row.key}-{seed}"
    changes = [*(f"{name}={value}" for name, value in row.changes.items()), f"seed={seed}", *sets]
    finished = kept(run / RESULT, changes)
    if finished is not None:
        return Outcome(**finished)
    started = time.monotonic()
    arguments = ["--recipe", RECIPE, "--data", str(data), "--out", str(run), "--overwrite"]
    for change in changes:
        arguments += ["--set", change]
    command("train.fit", [*arguments, "--name", row.key], jobs=jobs)
    train_s = time.monotonic() - started
    out = run / "evaluation"
    checkpoint = str(run / "checkpoint" / "last.ckpt")
    where = ["--checkpoint", checkpoint, "--data", str(data), "--out", str(out)]
    command("train.evaluate", where, jobs=jobs)
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    outcome = Outcome(row.key, seed, found["clip_top1"], found["order_control"], train_s)
    keep(run / RESULT, changes, asdict(outcome))
    return outcome


def table(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The result as Markdown."""
    lines = [
        "| model | clip top-1 | exact pairs | seeds | training, each |",
        "|---|---|---|---|---|",
    ]
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** | | | | |")
        own = [outcome for outcome in outcomes if outcome.row == row.key]
        minutes = statistics.median(outcome.train_s for outcome in own) / 60
        lines.append(
            f"| {row.title} | {_spread([o.top1 for o in own])} | "
            f"{_spread([o.pairs for o in own])} | {len(own)} | {minutes:.1f} min |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    percent = [100 * value for value in values]
    deviation = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.1f}{deviation} %"


def draw(rows: Sequence[Row], outcomes: Sequence[Outcome], path: Path) -> None:
    """Every run as a dot, every row's mean as a bar, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        values = [100 * o.top1 for o in outcomes if o.row == row.key]
        axis.barh(place, statistics.mean(values), color="#9ecae1", height=0.7)
        axis.plot(values, [place] * len(values), "o", color="#08519c", markersize=4)
    axis.set_yticks(range(len(rows)), [row.title for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("clip top-1, %; a dot is one seed")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, format="png")


def write_page(rows: Sequence[Row], outcomes: Sequence[Outcome], docs: Path) -> Path:
    """Write `ablation.json`, `ablation.png` and the part of `ablation.md` that is measured.

    What a person wrote below the line `## Reading` of an older page is kept.
    """
    docs.mkdir(parents=True, exist_ok=True)
    write_json(docs / "ablation.json", [asdict(outcome) for outcome in outcomes])
    draw(rows, outcomes, docs / "ablation.png")
    page = docs / "ablation.md"
    older = page.read_text(encoding="utf-8") if page.is_file() else ""
    _, mark, reading = older.partition("## Reading")
    with whole_file(page) as part:
        part.write_text(_page(rows, outcomes) + mark + reading, encoding="utf-8")
    return page


def _machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return measured_on(("torch", "pytorch-lightning", "numpy"), also=gpu)


def _page(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    return f"""# Ablation: what each part is worth

Written by `make ablation` (`python -m train.ablation`). {_data()}

Model: `tiny` from scratch, recipe `ablation`; the last epoch is measured, nothing is chosen on the
held-out clips. "Exact pairs": every reversible clip forwards and backwards, where a model that is
blind to order cannot pass 50 %. Mean ± standard deviation over seeds.

{table(rows, outcomes)}

![Top-1 of every run](ablation.png)

{_machine()}

"""


def _data() -> str:
    sizes, hard = Sizes(), Hardness()
    return (
        "Data: the hard arrow of time, thirteen\nclasses of which six pairs are the same frames in "
        f"reverse order; {sizes.train_scenes} training scenes\nand "
        f"{sizes.validation_scenes} held-out ones, each used forwards and "
        f"backwards; {hard.distractors} swaying distractors,\n"
        f"camera shake of {hard.shake_px} px and noise of {hard.noise:g}/255 on every frame."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = ", ".join(row.key for row in ROWS)
    parser.add_argument("--rows", default="cpu", help=f"cpu, gpu, all or a list of: {keys}")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page (default docs)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change every row"
    )
    return parser


def chosen_rows(text: str) -> tuple[Row, ...]:
    """The rows that `--rows` names.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> [row.key for row in chosen_rows("tsm,tdrl")]
        ['tsm', 'tdrl']
    """
    sets = {"cpu": CPU_ROWS, "gpu": GPU_ROWS, "all": ROWS}
    if text in sets:
        return sets[text]
    by_key = {row.key: row for row in ROWS}
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in by_key]
    if unknown:
        raise ValueError(
            f"--rows: unknown {unknown[0]!r}; cpu, gpu, all or a list of {', '.join(by_key)}"
        )
    return tuple(by_key[name] for name in names)


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.ablation`."""
    options = _parser().parse_args(argv)
    if options.seeds < 1 or options.jobs < 1:
        raise ValueError("--seeds and --jobs must be >= 1")
    rows = chosen_rows(options.rows)
    outcomes = ablate(rows, range(options.seeds), options.runs, jobs=options.jobs, sets=options.set)
    page = write_page(rows, outcomes, options.out)
    say(f"{table(rows, outcomes)}\nresults: {page}")


if __name__ == "__main__":
    sys.exit(run_command(main))
