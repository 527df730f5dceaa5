"""What has to be reached, and whether it was: reached, missed, or not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.bench.values import Value

RESNET50, TINY_NAME = "resnet50 at 224", "tiny at 48"
OWN_LIMIT_MS = 3.0


@dataclass(frozen=True)
class Needed:
    """One limit.

    Attributes:
        what: For people.
        key: The number's name.
        limit: What its median has to reach.
        least: The limit is the least; else the most.
    """

    what: str
    key: str
    limit: float
    least: bool = False

    def verdict(self, values: Mapping[str, Value]) -> str:
        """`reached`, `**missed**` or `not measured`."""
        value = values.get(self.key)
        if value is None:
            return "not measured"
        reached = value.median >= self.limit if self.least else value.median <= self.limit
        return "reached" if reached else "**missed**"

    def wanted(self) -> str:
        """`≥ 20`."""
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


FIXED = (
    Needed(
        "ResNet-50 at 224, 8 segments: eager recompute ÷ chosen step",
        f"decision/{RESNET50}/eager/chosen",
        20,
        least=True,
    ),
    Needed(
        "ResNet-50 at 224: TDRL ÷ plain, OpenVINO INT8",
        f"parts/{RESNET50}/openvino int8/both",
        1.25,
    ),
    Needed(
        "ResNet-50 at 224: TDRL ÷ plain, OpenVINO float32",
        f"parts/{RESNET50}/openvino float32/both",
        1.25,
    ),
    Needed(
        "ResNet-50 at 224: TDRL ÷ plain, ONNX Runtime float32",
        f"parts/{RESNET50}/ort float32/both",
        1.25,
    ),
    # the table divides by N times one: 8 × one is 1, 4 × one is a half
    Needed("ResNet-50 at 224: 8 streams ÷ 8 × one", f"streams/{RESNET50}/8", 1.0),
    Needed("tiny: 8 streams ÷ 8 × one", f"streams/{TINY_NAME}/8", 0.5),
    Needed("import of the runtime, s", "start/import", 0.5),
    Needed("start to first decisions, s", f"start/{TINY_NAME}/wall", 3.0),
    Needed("loader ÷ training step", "training/loader/step", 1.0, least=True),
)


def needed(values: Mapping[str, Value]) -> tuple[Needed, ...]:
    """The limits; one for each bundle of the stages, and the latency's from the measured steps."""
    found = list(FIXED)
    for key, value in values.items():
        if key.startswith("stages/") and key.endswith("/own"):
            what = f"{key.split('/')[1]}: runtime's own cost of a tick at 1280 × 720, ms"
            found.append(Needed(what, key, OWN_LIMIT_MS))
        if key.startswith("latency/") and key.endswith("/limit"):
            start = key.removesuffix("limit")
            what = f"{start.split('/')[1]}: grab to decision p99, ms"
            found.append(Needed(what, f"{start}p99", round(value.median, 1)))
    return tuple(found)


def as_markdown(values: Mapping[str, Value]) -> str:
    """A line a limit; those whose table was not run are left out."""
    lines = ["| needed | limit | measured | |", "|---|---|---|---|"]
    for each in needed(values):
        if each.key in values:
            measured = str(values[each.key])
            lines.append(f"| {each.what} | {each.wanted()} | {measured} | {each.verdict(values)} |")
    return "\n".join(lines)
