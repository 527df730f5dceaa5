"""What an evaluation found, as a table for people; live top-1 never stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAME_WIDTH = 26
MOST_PAIRS = 5
LONGEST_LABEL = 40


def summary(result: dict[str, Any]) -> str:
    """The table.

    Args:
        result: What `train.evaluate.evaluate` returned.
    """
    lines = [*_clip_lines(result), *_member_lines(result)]
    if "order_control" in result:
        lines.append(("on exact pairs", _percent(result["order_control"])))
    if "live" in result:
        lines += _live_lines(result["live"], result["consensus_len"])
    lines += _pair_lines(result["confused"])
    return "\n".join(f"{name:<{NAME_WIDTH}}{text}" for name, text in lines)


def _clip_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    lower, upper = result["clip_top1_interval"]
    views = f"{result['protocol']} views, " if result["protocol"] != "1x1" else ""
    interval = f"95 % interval {_percent(lower)} to {_percent(upper)}"
    lines = [
        ("clip top-1", f"{_percent(result['clip_top1'])}  ({views}{result['clips']} clips)"),
        ("", interval),
    ]
    if result["clip_top5"] is not None:
        lines.append(("clip top-5", _percent(result["clip_top5"])))
    lines += [
        ("mean class accuracy", _percent(result["mean_class_accuracy"])),
        ("calibration error (ECE)", f"{result['ece']:.3f}, likelihood (NLL) {result['nll']:.3f}"),
    ]
    if result["unreadable"]:
        lines.append(("unreadable clips", f"{len(result['unreadable'])}, left out"))
    return lines


def _member_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"  alone, {member['num_segments']} frames", _percent(member["clip_top1"]))
        for member in result.get("members", ())
    ]


def _live_lines(live: dict[str, Any], consensus_len: int) -> list[tuple[str, str]]:
    actions = f"({live['num_scored']} actions, last {consensus_len} logits)"
    delay = _number(live["delay_median_s"], " s"), _number(live["delay_p90_s"], " s")
    return [
        ("live top-1", f"{_percent(live['live_top1'])}  {actions}"),
        ("  by duration ÷ window", _bins(live["by_duration"])),
        ("  by earlier actions", _bins(live["by_earlier"])),
        ("delay, median / p90", " / ".join(delay)),
        ("event F1 (IoU ≥ 0.5)", f"{_percent(live['event_f1'])}  (as the runtime reports; plain "
         f"runs {_percent(live['plain_event_f1'])})"),
        ("  recall / precision", f"{_percent(live['event_recall'])} / "
         f"{_percent(live['event_precision'])}"),
        ("false events an hour", _number(live["false_events_per_hour"])),
    ]  # fmt: skip


def _pair_lines(pairs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    names = ["most confused"] + [""] * MOST_PAIRS
    texts = [
        f"{_short(pair['true'])} → {_short(pair['answer'])}: {pair['clips']} ({pair['share']:.0%})"
        for pair in pairs[:MOST_PAIRS]
    ]
    return list(zip(names, texts, strict=False))


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.3g}{unit}"


def _bins(bins: Sequence[dict[str, Any]]) -> str:
    filled = (b for b in bins if b["num_actions"])
    return ", ".join(f"{_edges(b)} {_percent(b['top1'])}" for b in filled)


def _edges(b: dict[str, Any]) -> str:
    return f"{b['lower']:g}–{b['upper']:g}" if b["upper"] else f"≥ {b['lower']:g}"
