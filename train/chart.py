"""Charts of a page: on a clear ground, in an ink for light and one for dark screens."""

from __future__ import annotations

import io
import warnings
from typing import Any

DPI = 110
MOST_COLUMNS = 5
# Ink and lines on a light and on a dark page.
INK = {False: "#1b1f24", True: "#d7dce2"}


def new_figure(width: float, height: float) -> Any:
    """An empty figure, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_above(axes: Any, *, dark: bool) -> None:
    """Names of what is drawn, in a row above the axes; nothing where nothing has a name."""
    if axes.get_legend_handles_labels()[0]:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": MOST_COLUMNS}
        legend = axes.legend(fontsize=8, frameon=False, **place)
        for text in legend.get_texts():
            text.set_color(INK[dark])


def png_of(figure: Any, axes: Any, *, dark: bool, dpi: int = DPI) -> bytes:
    """The finished figure as PNG, its axes in the ink of the page."""
    ink = INK[dark]
    axes.set_facecolor("none")
    axes.tick_params(colors=ink, labelsize=8)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    for side, line in axes.spines.items():
        line.set_visible(side in ("left", "bottom"))
        line.set_color(ink)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # classes may be named in letters that the font has not: boxes stand for them
        warnings.filterwarnings("ignore", message=".*Glyph.*")
        figure.savefig(out, format="png", dpi=dpi, transparent=True)
    return out.getvalue()
