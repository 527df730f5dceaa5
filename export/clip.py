"""Write the clip graph of a checkpoint: T frames at once, for models that do not stream too.

    python -m export.clip --checkpoint artifacts/NAME/checkpoint/best.ckpt --out clip.onnx

A bundle has it already; this is for checkpoints that give no bundle (lookahead, vsn, a head).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from export.parity import Parity, compare, require_equal
from export.to_onnx import clip_onnx_from_model
from runtime.artifacts import default_checkpoint
from runtime.bundle import CLIP_INPUT
from runtime.command import run_command, say
from runtime.files import whole_file
from train.checkpoint import load_checkpoint


def clip_onnx_from_checkpoint(checkpoint: Path, out: Path) -> Parity:
    """Write the clip graph and hold it against the model, on one clip of noise.

    Args:
        checkpoint: Any checkpoint.
        out: The ONNX file; whole or not at all.

    Returns:
        The distance between graph and model.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ExportError: The graph does not compute what the model does.
    """
    model, facts = load_checkpoint(checkpoint)
    T, picture = facts.sampling.num_segments, facts.picture
    shape = (1, T, picture.height_px, picture.width_px, 3)
    clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(clip).permute(0, 1, 4, 2, 3))[0].numpy()
    with whole_file(out) as part:
        clip_onnx_from_model(model, picture, T, part)
        session = ort.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        parity = compare(session.run(None, {CLIP_INPUT: clip})[0][0], expected)
        require_equal(parity, out.name)
    return parity


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.clip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=default_checkpoint(),
        help="what to export (default: the newest run's best)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.clip`."""
    options = _parser().parse_args(argv)
    parity = clip_onnx_from_checkpoint(options.checkpoint, options.out)
    say(f"{options.out}, {parity.relative:.1e} of the logits' range off the model")


if __name__ == "__main__":
    sys.exit(run_command(main))
