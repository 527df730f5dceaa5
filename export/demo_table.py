"""The demo's results as one table: what was reached against what must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.machine import measured_on

LIBRARIES = ("torch", "onnxruntime", "onnx", "opencv-python", "numpy", "tensorrt_rtx_cu13")
MOST_SECONDS = 600.0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        wanted: What must be reached, for people.
        got: What was reached, for people.
        reached: Whether it was; None where it was not measured.
        must: The demo fails without it. Times are not a must: machines differ.
    """

    what: str
    wanted: str
    got: str
    reached: bool | None
    must: bool = True


def rows_of(facts: Mapping[str, Any]) -> list[Row]:
    """The table's rows from what the stages measured."""
    return [*_accuracy_rows(facts), *_equality_rows(facts), *_cost_rows(facts)]


def _accuracy_rows(facts: Mapping[str, Any]) -> list[Row]:
    evaluation, control, live = facts["evaluation"], facts["control"], facts["live"]
    gate = facts["report"]["gate"]
    clip, pairs = evaluation["clip_top1"], control["order_control"]
    top1 = live["live_top1"] or 0.0
    loss, agreement = gate["clips"]["loss"], gate["agreement"]
    return [
        Row("clip top-1, held out, float", "≥ 97 %", _percent(clip), clip >= 0.97),
        Row(
            "control without temporal parts, on exact forward/reverse pairs",
            "≤ 50.5 %",
            _percent(pairs),
            pairs <= 0.505,
        ),
        Row(
            "same pairs, the demo model",
            "–",
            _percent(evaluation["order_control"]),
            None,
        ),
        Row(
            f"live top-1 on the tape, INT8 in the real runtime ({live['num_scored']} actions)",
            "≥ 94 %",
            _percent(top1),
            top1 >= 0.94,
        ),
        Row(
            "the same, float in PyTorch (`train.evaluate`)",
            "within 0.5 point",
            _percent(evaluation["live"]["live_top1"]),
            abs(top1 - (evaluation["live"]["live_top1"] or 0.0)) <= 0.005,
            must=False,
        ),
        Row("event F1 (IoU ≥ 0.5), as the runtime reported", "–", _percent(live["event_f1"]), None),
        Row(
            "the same without a policy, float in PyTorch",
            "–",
            _percent(evaluation["live"]["plain_event_f1"]),
            None,
        ),
        Row("INT8: clip top-1 lost", "≤ 0.5 point", f"{100 * loss:.2f} point", loss <= 0.005),
        Row("INT8: same answer as float", "≥ 99 %", _percent(agreement), agreement >= 0.99),
    ]


def _equality_rows(facts: Mapping[str, Any]) -> list[Row]:
    parity, nvidia = facts["report"]["parity"], facts["nvidia"]
    checked = nvidia is not None
    return [
        Row(
            f"largest logit difference PyTorch ↔ ONNX, {parity['steps']} unrolled steps",
            "≤ 1e-4 of the range",
            f"{parity['relative']:.1e}",
            parity["relative"] <= 1e-4,
        ),
        Row(
            "convolutions on INT8 in NVIDIA's build (SM86)",
            "all that were meant to be",
            f"{nvidia['int8']} of {nvidia['meant']}" if checked else "not built (RTX=1)",
            nvidia["int8"] == nvidia["meant"] and not nvidia["float"] if checked else None,
        ),
    ]


def _cost_rows(facts: Mapping[str, Any]) -> list[Row]:
    rows = []
    for cost, limit, text in zip(facts["cost"], (1 / 3, 1 / 5), ("1/3", "1/5"), strict=True):
        spread = f"{cost['ratio']:.3f} ({cost['ratio_low']:.3f}–{cost['ratio_high']:.3f})"
        what = f"one step ÷ the 8-frame clip, {cost['name']} (one thread)"
        rows.append(Row(what, f"≤ {text}", spread, cost["ratio"] <= limit, must=False))
    total = facts["seconds"]["total"]
    rows.append(
        Row("all of `make demo`", "≤ 10 min", _minutes(total), total <= MOST_SECONDS, must=False)
    )
    return rows


def markdown_table(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The table, the stages' times and the machine, as Markdown."""
    marks = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | wanted | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.wanted} | {r.got} | {marks[r.reached]} |" for r in rows]
    seconds = ", ".join(f"{name} {_minutes(s)}" for name, s in facts["seconds"].items())
    return "\n".join([*lines, "", f"Stages: {seconds}.", "", measured_on(LIBRARIES), ""])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _minutes(seconds: float) -> str:
    return (
        f"{int(seconds // 60)}:{int(seconds % 60):02d} min" if seconds >= 60 else f"{seconds:.0f} s"
    )
