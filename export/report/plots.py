"""The report's plots, each on a light and a dark ground; small enough to be read on a phone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from train.chart import INK, legend_above, new_figure, png_of

WIDTH = 5.2
SHARP_DPI = 160
LINE = {False: "#2f5f9e", True: "#8ab4f0"}
BAND = {False: "#2f5f9e33", True: "#8ab4f033"}
KEPT = {False: "#c2571a", True: "#f2b25c"}


def drift_plot(stream: Mapping[str, Any], *, dark: bool) -> bytes:
    """Distance of INT8 to float along a long stream, and the blocks that the test compares.

    Args:
        stream: The report's part of one long stream.
        dark: For a dark page.
    """
    figure = new_figure(WIDTH, 2.7)
    axes = figure.subplots()
    trace, size = stream["trace"], stream["block_steps"]
    percent = {name: [100 * value for value in trace[name]] for name in ("median", "high")}
    axes.fill_between(
        trace["step"], 0, percent["high"], color=BAND[dark], linewidth=0, label="95 % of steps"
    )
    axes.plot(trace["step"], percent["median"], color=LINE[dark], linewidth=1, label="median")
    blocks = [100 * value for value in stream["int8"]["blocks"]]
    middles = [size * (number + 1.5) for number in range(len(blocks))]
    axes.plot(
        middles, blocks, "o", color=INK[dark], markersize=4, label="blocks, the same clips in each"
    )
    axes.set(xlabel="steps without a reset", ylabel="distance, % of range")
    axes.set_xlim(0, stream["steps"])
    axes.set_ylim(0, 1.15 * max(*percent["high"], 1e-9))
    legend_above(axes, dark=dark)
    return png_of(figure, axes, dark=dark, dpi=SHARP_DPI)


def sensitivity_plot(
    layers: Sequence[Mapping[str, Any]], kept: Collection[str], *, dark: bool
) -> bytes:
    """A bar a convolution, the worst first: the logits' SQNR where it alone is INT8.

    Args:
        layers: The report's sensitivity layers.
        kept: Names of those that stay float.
        dark: For a dark page.
    """
    worst_first = sorted(layers, key=lambda layer: float(layer["sqnr_db"]))
    figure = new_figure(WIDTH, 2.5)
    axes = figure.subplots()
    for name, colour, stays in (("INT8", LINE[dark], False), ("kept float", KEPT[dark], True)):
        chosen = [
            (number, layer["sqnr_db"])
            for number, layer in enumerate(worst_first, start=1)
            if (layer["conv"] in kept) == stays
        ]
        if chosen:
            axes.bar([x for x, _ in chosen], [y for _, y in chosen], color=colour, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="convolution, the most sensitive first", ylabel="SQNR of the logits, dB")
    legend_above(axes, dark=dark)
    return png_of(figure, axes, dark=dark, dpi=SHARP_DPI)
