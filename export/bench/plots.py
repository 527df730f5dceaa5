"""The bench's plots: what a decision costs, and how streams share a batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.bench.values import Value
from train.chart import legend_above, new_figure, png_of

DPI = 160
COLOURS = ("#9aa3ad", "#c2571a", "#5b8bd0", "#2f5f9e")
LINES = ("o-", "s--")
CALLS = {
    "eager": "eager, 8 frames",
    "clip": "clip graph",
    "step": "step, float32",
    "chosen": "step, chosen",
}


def decision_plot(values: Mapping[str, Value]) -> bytes | None:
    """Milliseconds of a decision by backbone, logarithmic; None where they were not measured."""
    names = _names(values, "decision", "/eager")
    if not names:
        return None
    figure = new_figure(7.0, 3.0)
    axes = figure.subplots()
    width = 0.8 / len(CALLS)
    for number, (call, label) in enumerate(CALLS.items()):
        found = [values[f"decision/{name}/{call}"] for name in names]
        middle = [each.median for each in found]
        spread = [[m - v.low for m, v in zip(middle, found, strict=True)]]
        spread.append([v.high - m for m, v in zip(middle, found, strict=True)])
        places = np.arange(len(names)) + (number - 1.5) * width
        axes.bar(
            places,
            middle,
            width,
            yerr=np.maximum(spread, 0),
            color=COLOURS[number],
            label=label,
            error_kw={"linewidth": 0.8},
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), [_label(name).replace(" at ", "\nat ") for name in names])
    axes.set(ylabel="CPU time of a decision, ms")
    legend_above(axes, dark=False)
    return png_of(figure, axes, dark=False, dpi=DPI)


def streams_plot(values: Mapping[str, Value]) -> bytes | None:
    """A stream's share of a batch's step, as a share of a step alone; None likewise."""
    names = _names(values, "streams", "/1")
    if not names:
        return None
    figure = new_figure(7.0, 3.0)
    axes = figure.subplots()
    for number, name in enumerate(names):
        counts = sorted(
            int(key.rpartition("/")[2]) for key in values if key.startswith(f"streams/{name}/")
        )
        shares = [1.0 if n == 1 else values[f"streams/{name}/{n}"].median for n in counts]
        style = LINES[number // len(COLOURS) % len(LINES)]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(counts, shares, style, markersize=4, color=colour, label=_label(name))
    axes.axhline(1, color=COLOURS[0], linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="streams in a batch", ylabel="step ÷ (streams × step of one)")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")
    return png_of(figure, axes, dark=False, dpi=DPI)


def _label(name: str) -> str:
    """A case for people who see many beside one another."""
    return name.replace("efficientnet_", "")


PLOTS = {"decision": decision_plot, "streams": streams_plot}


def _names(values: Mapping[str, Value], table: str, end: str) -> list[str]:
    start = f"{table}/"
    return [
        key.removeprefix(start).removesuffix(end)
        for key in values
        if key.startswith(start) and key.endswith(end)
    ]
