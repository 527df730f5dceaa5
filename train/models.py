"""What the models cost: parameters, GMACs of a clip and of a step, numbers of state.

    python -m train.models
    python -m train.models --backbone resnet50 efficientnet_lite0 --num-segments 16
    python -m train.models --form lookahead --preset tdrl --size 112

GMACs are multiplications with addition in convolutions and matrix products; papers often call
them FLOPs. Nothing is downloaded and nothing runs: it is counted from shapes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from runtime.command import run_command, say
from train.model.backbones.table import BACKBONES
from train.model.cost import Cost, cost_of
from train.model.pem import Form
from train.model.presets import PRESETS
from train.model.tdrl import ModelConfig
from train.model.unit import UnitConfig

HEADER = ("backbone", "preset", "parameters", "GMACs/clip", "GMACs/step", "state numbers")
NONE = "-"


def config_of(preset: str, backbone: str, *, form: Form, num_classes: int) -> ModelConfig:
    """The model that a preset means.

    Args:
        preset: Name in `PRESETS`.
        backbone: Name in `BACKBONES`.
        form: `causal` or `lookahead`.
        num_classes: Classes K.

    Raises:
        ValueError: Values out of range.
    """
    chosen = PRESETS[preset]
    unit = UnitConfig(
        temporal=chosen.temporal, pem=chosen.pem, reduction=chosen.reduction, form=form
    )
    return ModelConfig(backbone=backbone, num_classes=num_classes, unit=unit)


def row_of(backbone: str, preset: str, cost: Cost) -> tuple[str, ...]:
    """One line of the table, as text.

    >>> row_of("resnet50", "tsm", Cost(23_864_558, 32_698_138_624, 4_087_267_328, 702_464))
    ('resnet50', 'tsm', '23.86 M', '32.70', '4.09', '702,464')
    """
    return (
        backbone,
        preset,
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.clip_macs / 1e9:.2f}",
        NONE if cost.step_macs is None else f"{cost.step_macs / 1e9:.2f}",
        NONE if cost.state_size is None else f"{cost.state_size:,}",
    )


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as lines with aligned columns; names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--backbone", nargs="+", choices=BACKBONES, default=BACKBONES, help="default: all"
    )
    parser.add_argument(
        "--preset", nargs="+", choices=tuple(PRESETS), default=tuple(PRESETS), help="default: all"
    )
    parser.add_argument("--form", choices=("causal", "lookahead"), default="causal")
    parser.add_argument("--num-segments", type=int, default=8, help="frames of a clip (default 8)")
    parser.add_argument("--size", type=int, default=224, help="height and width, px (default 224)")
    parser.add_argument("--classes", type=int, default=174, help="classes (default 174)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.models`."""
    options = _parser().parse_args(argv)
    for name in ("num_segments", "size"):
        if getattr(options, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} must be >= 1, got {getattr(options, name)}")
    pairs = [(backbone, preset) for backbone in options.backbone for preset in options.preset]
    rows: list[tuple[str, ...]] = [HEADER]
    for backbone, preset in tqdm(pairs, desc="count", unit="model", disable=None, leave=False):
        config = config_of(preset, backbone, form=options.form, num_classes=options.classes)
        cost = cost_of(
            config,
            num_segments=options.num_segments,
            height_px=options.size,
            width_px=options.size,
        )
        rows.append(row_of(backbone, preset, cost))
    say(as_table(rows))
    say(
        f"{options.form}, {options.num_segments} frames of {options.size}×{options.size}, "
        f"{options.classes} classes; train one: python -m train.fit --help"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
