"""Turn a checkpoint into a bundle: graphs, calibration, gate, golden sequence, hashes.

    python -m export.bundle --checkpoint artifacts/demo/checkpoint/best.ckpt \
        --data artifacts/data/arrow_of_time

The bundle appears when everything in it has passed; until then nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from calib.clip_list import CalibrationClip, read_clip_list, write_clip_list
from calib.record import clip_pictures
from export.gate import ALLOWED_LOSS, GateResult, PairedLoss, clip_gate, paired_loss, require_pass
from export.golden import camera_frames, golden_frames, write_golden
from export.parity import Parity, compare, model_steps, require_equal, session_clips
from export.preflight import require_clean
from export.quantise import Quantised, quantise, reference_session, steps_of, with_graph
from export.to_onnx import clip_onnx_from_model, step_onnx_from_model
from runtime.artifacts import default_checkpoint, point_latest
from runtime.bundle import GOLDEN, MANIFEST, Bundle, GraphSpec, load_bundle
from runtime.command import run_command
from runtime.errors import DataError, ExportError
from runtime.files import sha256_of, write_json
from runtime.machine import installed_versions
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession
from train.checkpoint import Facts, load_checkpoint
from train.data.catalog import load_split, load_tape
from train.evaluate import load_clips
from train.live_evaluation import RecordedSession, decide_tape
from train.live_score import answers
from train.model.tdrl import Tdrl

PARITY_STEPS = 64
COMPARISON_STEPS = 128
COMPARED_SHARE = 4  # at most a fourth of the calibration clips compares methods instead
FEWEST_CLIPS = 2
REPORT = "report.json"
CLIPS = "clips.jsonl"
LIBRARIES = ("torch", "onnx", "onnxsim", "onnxruntime", "numpy", "opencv-python")


@dataclass(frozen=True)
class Built:
    """What an export gives: the bundle, and everything that was measured on the way."""

    bundle: Bundle
    report: dict[str, Any]


def build_bundle(
    checkpoint: Path, data: Path, out: Path, *, allowed_loss: float = ALLOWED_LOSS
) -> Built:
    """Export, calibrate, check and bundle a checkpoint.

    Args:
        checkpoint: A causal model's checkpoint.
        data: Data folder with `calibration/` and `validation/`; `tape_validation/` is used for
            the live part of the gate where it is there.
        out: The bundle folder; an older bundle there is replaced at the very end.
        allowed_loss: Clip top-1 that INT8 may lose, 0..1.

    Raises:
        ValueError: `allowed_loss` is out of range.
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used.
        ExportError: A graph is not what the model computes, or fails preflight.
        GateError: INT8 loses too much.
    """
    if not 0 <= allowed_loss <= 1:
        raise ValueError(f"allowed_loss must be in 0..1, got {allowed_loss}; 0.005 is half a point")
    model, facts = load_checkpoint(checkpoint)
    with replaced_folder(out) as folder:
        clips = _calibration_clips(data, facts, folder)
        load_split(data, "validation", facts.labels)  # refuse early
        bundle = _float_bundle(model, facts, folder)
        frames, num_compared = _comparison_stream(clips, facts)
        parity = _check_float(model, bundle, frames)
        quantised = _quantise(bundle, clips[num_compared:], frames)
        gate, remarks = _gate(bundle, quantised, data, facts, allowed_loss)
        _write_golden(bundle, quantised.graph, frames)
        report = {
            "name": facts.name,
            "parity": parity.to_json(),
            "quantisation": quantised.to_json(),
            "gate": {**gate.to_json(), "allowed_loss": allowed_loss, "remarks": remarks},
        }
        write_json(folder / REPORT, report)
        finished = replace(
            with_graph(bundle, quantised.graph),
            accuracy=_accuracies(gate),
            versions=_versions(),
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        _write_manifest(finished)
    # beside the bundle: these are paths of this machine
    write_clip_list(out.parent / CLIPS, clips)
    point_latest(out.parent)
    return Built(load_bundle(out), report)


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place only if the body succeeds.

    Raises:
        ExportError: `out` holds something that is no bundle.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise ExportError(f"{out} exists and is no bundle; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    part, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():  # killed between the two renames
        old.rename(out)
    for stale in (part, old):
        shutil.rmtree(stale, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if out.exists():
            out.rename(old)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not out.exists() and old.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _float_bundle(model: Tdrl, facts: Facts, folder: Path) -> Bundle:
    states = step_onnx_from_model(model, facts.picture, folder / "step.onnx")
    num_segments = facts.sampling.num_segments
    clip_onnx_from_model(model, facts.picture, num_segments, folder / "clip.onnx")
    require_clean(folder / "step.onnx", states=states, quantised=False)
    unit = facts.model.unit
    return Bundle(
        folder=folder,
        name=facts.name,
        labels=facts.labels,
        picture=facts.picture,
        sampling=facts.sampling,
        graphs={"step": GraphSpec("step.onnx", states), "clip": GraphSpec("clip.onnx")},
        model={
            "backbone": facts.model.backbone,
            "temporal": unit.temporal,
            "pem": unit.pem,
            "form": unit.form,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    )


def _calibration_clips(data: Path, facts: Facts, folder: Path) -> list[CalibrationClip]:
    """The calibration clips as calibration reads them: from a clip list."""
    split = load_split(data, "calibration", facts.labels)
    if len(split.segments) < FEWEST_CLIPS:
        raise DataError(
            f"{data / 'calibration'} must hold at least {FEWEST_CLIPS} video clips (segments.csv), "
            f"got {len(split.segments)}; some calibrate, the others compare methods"
        )
    listed = [
        CalibrationClip(str(s.path), s.start_s, s.end_s, facts.labels[s.label], 0.0)
        for s in split.located()
        if s.end_s is not None
    ]
    # classes take turns, so that any beginning of the list is balanced
    ranks: dict[str, int] = {}
    order = []
    for clip in listed:
        ranks[clip.label] = ranks.get(clip.label, 0) + 1
        order.append(ranks[clip.label])
    turns = [listed[i] for i in np.argsort(order, kind="stable")]
    path = folder / CLIPS
    write_clip_list(path, turns)
    found = read_clip_list(path)
    path.unlink()
    return found


def _comparison_stream(
    clips: Sequence[CalibrationClip], facts: Facts
) -> tuple[NDArray[np.uint8], int]:
    """A stream of the first clips, which calibration then leaves out.

    Returns:
        `COMPARISON_STEPS` pictures (S, H, W, 3), again from the start where there are too few,
        and how many clips they are from: at most one of `COMPARED_SHARE`.
    """
    pictures: list[NDArray[np.uint8]] = []
    num_clips = 0
    while len(pictures) < COMPARISON_STEPS and num_clips < max(1, len(clips) // COMPARED_SHARE):
        pictures += clip_pictures(clips[num_clips], facts.picture, facts.sampling)
        num_clips += 1
    return np.stack([pictures[i % len(pictures)] for i in range(COMPARISON_STEPS)]), num_clips


def _check_float(model: Tdrl, bundle: Bundle, frames: NDArray[np.uint8]) -> Parity:
    """The first law: unrolled steps of the graph equal those of the model, and the clip's."""
    unrolled, reset = frames[:PARITY_STEPS], _starts(PARITY_STEPS)
    parity = compare(steps_of(bundle, unrolled, reset), model_steps(model, unrolled, reset))
    require_equal(parity, "step.onnx")
    T = bundle.sampling.num_segments
    clip = frames[:T]
    steps = steps_of(bundle, clip, _starts(T))
    require_equal(compare(clip_graph_logits(bundle, clip), steps), "clip.onnx")
    return parity


def clip_graph_logits(bundle: Bundle, clip: NDArray[np.uint8]) -> Logits:
    """Per-frame logits of the clip graph in ONNX Runtime.

    Args:
        bundle: A bundle with its clip graph.
        clip: Shape (T, H, W, 3), uint8, RGB.

    Returns:
        Shape (T, K), float32.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        str(bundle.graph_path("clip")), options, providers=["CPUExecutionProvider"]
    )
    logits: Logits = session.run(None, {"clip": clip[np.newaxis]})[0][0]
    return logits


def _starts(count: int) -> NDArray[np.float32]:
    reset = np.zeros(count, np.float32)
    reset[0] = 1.0
    return reset


def _quantise(bundle: Bundle, clips: list[CalibrationClip], frames: NDArray[np.uint8]) -> Quantised:
    with tqdm(total=len(clips), desc="calibrate", unit="clip", disable=None) as bar:
        quantised = quantise(bundle, clips, frames, _starts(len(frames)), advance=bar.update)
    require_clean(
        bundle.folder / quantised.graph.file, states=quantised.graph.states, quantised=True
    )
    return quantised


def _gate(
    bundle: Bundle, quantised: Quantised, data: Path, facts: Facts, allowed_loss: float
) -> tuple[GateResult, list[str]]:
    clips = load_clips(data, "validation", facts)
    pictures = clips.pictures.permute(0, 1, 3, 4, 2).contiguous().numpy()
    logits = []
    for int8 in (None, quantised.graph):
        with reference_session(bundle, int8) as session:
            logits.append(session_clips(session, pictures))
    live, stream = None, None
    if (data / "tape_validation").is_dir():
        live, stream = _live_loss(with_graph(bundle, quantised.graph), data)
    result = clip_gate(logits[0], logits[1], clips.label.numpy(), live, stream)
    return result, require_pass(result, allowed_loss=allowed_loss)


def _live_loss(bundle: Bundle, data: Path) -> tuple[PairedLoss, tuple[Logits, Logits]]:
    video, truth = load_tape(data, "tape_validation", bundle.labels)
    right, streams = [], []
    for precision in ("float32", "int8"):
        logits: list[Logits] = []
        with OrtStepSession(bundle, precision, optimise=False) as session:
            decisions = decide_tape(bundle, RecordedSession(session, logits), video)
        given = answers(truth, decisions, bundle.labels)
        wanted = [bundle.labels.index(action.label) for action in truth]
        right.append(np.array(given) == np.array(wanted))
        streams.append(np.concatenate(logits))
    return paired_loss(right[0], right[1]), (streams[0], streams[1])


def _write_golden(bundle: Bundle, int8: GraphSpec, frames: NDArray[np.uint8]) -> None:
    golden, reset = golden_frames(list(frames))
    write_golden(
        bundle.folder / GOLDEN,
        golden,
        reset,
        steps_of(bundle, golden, reset),
        steps_of(bundle, golden, reset, int8=int8),
        camera_frames(list(frames[:: max(1, len(frames) // 3)])),
        bundle.picture,
    )


def _accuracies(gate: GateResult) -> dict[str, float]:
    found = {
        "clip_top1_float32": gate.clips.top1_float,
        "clip_top1_int8": gate.clips.top1_int8,
        "clip_agreement": gate.agreement,
    }
    if gate.live is not None:
        found["live_top1_float32"] = gate.live.top1_float
        found["live_top1_int8"] = gate.live.top1_int8
    return {name: round(value, 6) for name, value in found.items()}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **installed_versions(LIBRARIES)}


def _write_manifest(bundle: Bundle) -> None:
    """Last of all files: a folder without it is no bundle."""
    hashes = {file.name: sha256_of(file) for file in sorted(bundle.folder.iterdir())}
    write_json(bundle.folder / MANIFEST, replace(bundle, sha256=hashes).to_json())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=default_checkpoint(),
        help="what to export (default: the newest run's best)",
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, help="bundle folder (default: the run's `bundle`)")
    parser.add_argument(
        "--allowed-loss",
        type=float,
        default=ALLOWED_LOSS,
        help="clip top-1 that INT8 may lose, 0..1 (default %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.bundle`."""
    options = _parser().parse_args(argv)
    out = options.out or options.checkpoint.resolve().parent.parent / "bundle"
    built = build_bundle(options.checkpoint, options.data, out, allowed_loss=options.allowed_loss)
    gate = built.report["gate"]
    print(json.dumps(built.bundle.accuracy, indent=2))  # noqa: T201
    for remark in gate["remarks"]:
        print(f"note: {remark}")  # noqa: T201
    print(f"bundle {out}; next: make engine, or make stream")  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_command(main))
