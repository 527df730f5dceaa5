"""The part of the report's page about calibration and quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from export.report.plots import sensitivity_plot
from export.report.table import facts_table, table
from train.page import picture_pair

MOST_LAYERS = 10
CALIBRATION = (
    ("clips", "clips that calibrated"),
    ("steps", "steps of them"),
    ("resets", "steps from the zero state; the others go on with a stream"),
    ("unreadable", "clips that could not be read"),
    ("comparing", "clips that compared methods instead"),
)
QUANTISED = (
    ("int8_convolutions", "convolutions in INT8"),
    ("quantised_tensors", "feature maps in INT8"),
    ("int8_states", "states in INT8"),
)


def quantisation_sections(report: Mapping[str, Any]) -> Iterator[str]:
    """Calibration, the threshold methods side by side, and which layers are sensitive.

    Args:
        report: What `report.json` holds.
    """
    found = report.get("quantisation")
    if not found:
        return
    yield "<h2>Calibration and INT8</h2>"
    yield facts_table(list(_counts(report.get("calibration", {}), found)))
    yield from _methods(found)
    methods = found.get("compared", {})
    yield from _tried([s for s in found.get("steps_tried", ()) if s["name"] not in methods])
    yield from _states(found)
    yield "<h2>Sensitivity of the layers</h2>"
    yield from _kept(found.get("kept_float", ()))
    yield from _sensitivity(found.get("sensitivity"))


def _counts(
    calibration: Mapping[str, Any], quantisation: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for part, names in ((calibration, CALIBRATION), (quantisation, QUANTISED)):
        for key, what in names:
            if key in part:
                yield what, f"{part[key]:,}"


def _methods(found: Mapping[str, Any]) -> Iterator[str]:
    compared = found.get("compared")
    if not compared:
        return
    yield (
        '<p class="soft">Threshold methods on clips that calibration left out; the nearest to '
        "float was kept.</p>"
    )
    yield table(
        ("method", "logits' SQNR, dB", "same answer", "largest difference"),
        [
            (
                f"{name} (kept)" if name == found.get("method") else name,
                f"{parity['sqnr_db']:.1f}",
                f"{100 * parity['same_top1']:.1f} %",
                f"{100 * parity['relative']:.1f} % of the range",
            )
            for name, parity in compared.items()
        ],
    )


def _tried(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not steps:
        return
    yield '<p class="soft">What was tried to come nearer, one after the other.</p>'
    yield table(
        ("step", "logits' SQNR, dB", "same answer", "kept"),
        [
            (
                step["name"],
                f"{step['sqnr_db']:.1f}",
                f"{100 * step['agreement']:.1f} %",
                "yes" if step["kept"] else "no",
            )
            for step in steps
        ],
    )


def _states(found: Mapping[str, Any]) -> Iterator[str]:
    by_state, kinds = found.get("state_sqnr_db"), found.get("state_kinds", {})
    if not by_state:
        return
    yield "<details><summary>SQNR of the states on those clips</summary>"
    yield table(
        ("state", "of", "dB"),
        [(name, kinds.get(name, ""), f"{value:.1f}") for name, value in by_state.items()],
        text_columns=2,
    )
    yield "</details>"


def _kept(kept: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not kept:
        yield "<p>No convolution had to stay float.</p>"
        return
    yield f"<p>{len(kept)} of the convolutions stay float to keep the accuracy:</p>"
    yield table(
        ("convolution", "why", "share of MACs"),
        [(one["conv"], one["reason"], f"{100 * one['macs_share']:.1f} %") for one in kept],
        text_columns=2,
    )


def _sensitivity(found: Mapping[str, Any] | None) -> Iterator[str]:
    layers: Sequence[Mapping[str, Any]] = found.get("layers", ()) if found else ()
    if not found or not layers:
        yield (
            "<p>How much each layer costs was not measured in this export; a new export "
            "(<code>python -m export.bundle</code>) does.</p>"
        )
        return
    kept = set(found.get("kept_float", ()))
    yield picture_pair(
        sensitivity_plot(layers, kept, dark=False),
        sensitivity_plot(layers, kept, dark=True),
        "Bars: SQNR of the logits where one convolution alone is INT8",
    )
    worst = sorted(layers, key=lambda layer: float(layer["sqnr_db"]))[:MOST_LAYERS]
    clips = found.get("accuracy_clips")
    on = f"; top-1 on {clips:,} validation clips, the others in float" if clips else ""
    yield f'<p class="soft">The {len(worst)} most sensitive ones{on}:</p>'
    yield table(
        ("convolution", "SQNR, dB", "share of MACs", "top-1 lost", "kept float"),
        [
            (
                layer["conv"],
                f"{layer['sqnr_db']:.1f}",
                f"{100 * layer['macs_share']:.1f} %",
                _loss(layer.get("top1_loss")),
                "yes" if layer["conv"] in kept else "",
            )
            for layer in worst
        ],
    )


def _loss(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.2f} points"
