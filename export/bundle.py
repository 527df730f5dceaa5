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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.cache import default_cache_dir
from calib.clip_list import CalibrationClip, write_clip_list
from export.bundle_folder import CLIPS, replaced_folder, write_manifest
from export.calibration_bar import CalibrationBar
from export.calibration_clips import MOST_CLIPS, calibration_clips, comparison
from export.checks.preflight import require_clean
from export.drift import LONG_STEPS, drift_at_export
from export.gate import ALLOWED_LOSS, GateResult, clip_gate, require_pass
from export.golden import camera_frames, golden_frames, write_golden
from export.half_check import HalfCheck, half_check, require_half_pass, rounded_session
from export.held_out import (
    MOST_GATED,
    HeldOut,
    Tape,
    held_out_clips,
    layer_clips,
    live_loss,
    remarks_on,
    validation_tapes,
)
from export.int8.quantise import (
    DEFAULT_OPTIONS,
    Int8Options,
    LabelledClips,
    Quantised,
    quantise,
    reference_session,
    steps_of,
    with_graph,
)
from export.parity import (
    Parity,
    compare,
    model_steps,
    require_equal,
    session_clips,
    starts_of,
)
from export.reference import reference_of
from export.report.changed_clips import changed_clips
from export.report.compose import compose
from export.report.verdict import PAGE, REFUSED, require_steady
from export.report_page import write_report
from export.stream.state_parts import state_parts
from export.to_fp16 import STEP_FP16, fp16_onnx_from_model
from export.to_onnx import clip_onnx_from_model, step_onnx_from_model
from runtime.artifacts import default_checkpoint, point_latest
from runtime.bundle import CLIP_INPUT, GOLDEN, Bundle, GraphKind, GraphSpec, load_bundle
from runtime.command import run_command, say
from runtime.errors import ExportError, GateError
from runtime.machine import installed_versions
from runtime.sessions.base import Logits
from train.checkpoint import Facts, load_checkpoint
from train.live_evaluation import TorchSession, bundle_of
from train.model.tdrl import Tdrl

PARITY_STEPS = 64
LIBRARIES = ("torch", "onnx", "onnxsim", "onnxruntime", "numpy", "opencv-python")


@dataclass(frozen=True)
class ExportOptions:
    """What is made and measured beside the INT8 graph.

    Attributes:
        float16: Make the half graph, and hold it against float.
        most_gated: Validation clips that the gate measures at most; they are held in memory.
        long_stream: Look for a drift along a very long stream too.
    """

    float16: bool = True
    most_gated: int = MOST_GATED
    long_stream: bool = False

    def __post_init__(self) -> None:
        if self.most_gated < 1:
            raise ValueError(f"the gate needs at least one clip, got {self.most_gated} at most")


DEFAULT_EXPORT = ExportOptions()


@dataclass(frozen=True)
class Built:
    """What an export gives: the bundle, and everything that was measured on the way."""

    bundle: Bundle
    report: dict[str, Any]


def build_bundle(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    allowed_loss: float = ALLOWED_LOSS,
    most_clips: int = MOST_CLIPS,
    cache_dir: Path | None = None,
    int8: Int8Options = DEFAULT_OPTIONS,
    options: ExportOptions = DEFAULT_EXPORT,
) -> Built:
    """Export, calibrate, check and bundle a checkpoint.

    Args:
        checkpoint: A causal model's checkpoint.
        data: Data folder or its data.yaml, with clips for calibration and validation; the
            validation's live tapes are used for the live part of the gate where there are any.
        out: The bundle folder; an older bundle there is replaced at the very end.
        allowed_loss: Clip top-1 that INT8 may lose, 0..1.
        most_clips: Calibration clips at most; a share of them compares threshold methods.
        cache_dir: Where what calibration records is kept for the next export; None keeps nothing.
        int8: What may stay in float, and what is measured of the layers.
        options: What is made and measured beside the INT8 graph.

    Raises:
        ValueError: `allowed_loss` or `most_clips` is out of range.
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used.
        ExportError: A graph is not what the model computes, or fails preflight.
        GateError: float16 is not what float says, which is known before calibration. Or INT8
            loses too much or goes away from float along a stream; the report is then in
            `bundle.refused/`, beside `out`.
    """
    if not 0 <= allowed_loss <= 1:
        raise ValueError(f"allowed_loss must be in 0..1, got {allowed_loss}; 0.005 is half a point")
    model, facts = load_checkpoint(checkpoint)
    if (reason := facts.model.offline_reason) is not None:
        raise ExportError(f"{reason}; its clip graph: python -m export.clip --help")
    with replaced_folder(out) as folder:
        clips = calibration_clips(data, facts, most=most_clips)
        bundle = _float_bundle(model, facts, folder, float16=options.float16)
        compared = comparison(clips, facts)
        frames = compared.frames
        parity = _check_float(model, bundle, frames)
        held_out = held_out_clips(data, facts, options.most_gated)
        with reference_session(bundle) as session:
            logits = session_clips(session, held_out.clips.pictures)
        half = _half(bundle, held_out.clips, logits) if options.float16 else None
        quantised = _quantise(
            bundle,
            compared.rest,
            frames,
            cache_dir=cache_dir,
            budget=int8.float_budget,
            worst_on=held_out.clips if int8.layer_accuracy else layer_clips(held_out, facts),
        )
        tapes = validation_tapes(data, facts.labels)
        gate, changed = _gate(bundle, quantised, held_out, logits, tapes)
        _write_golden(bundle, quantised.graph, frames)
        finished = replace(
            with_graph(bundle, quantised.graph),
            accuracy=_accuracies(gate, half),
            versions=_versions(),
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        measured = {
            "parity": parity.to_json(),
            **({} if half is None else {"float16": half.to_json()}),
            "calibration": {
                **quantised.recording.to_json(),
                "listed": len(clips),
                "comparing": len(compared.clips),
            },
            "quantisation": quantised.to_json(),
            "gate": {
                **gate.to_json(),
                "allowed_loss": allowed_loss,
                "validation_clips": held_out.listed,
                "remarks": remarks_on(held_out, tapes),
            },
            "changed": changed,
            **_long_streams(finished, clips, model, long_stream=options.long_stream),
        }
        report = compose(finished, facts, _data_name(data), measured)
        report = _judged(report, gate, allowed_loss, out)
        report = write_report(folder, report)
        write_manifest(finished)
    # beside the bundle: these are paths of this machine
    write_clip_list(out.parent / CLIPS, clips)
    point_latest(out.parent)
    return Built(load_bundle(out), report)


def _float_bundle(model: Tdrl, facts: Facts, folder: Path, *, float16: bool = True) -> Bundle:
    states = step_onnx_from_model(model, facts.picture, folder / "step.onnx")
    num_segments = facts.sampling.num_segments
    clip_onnx_from_model(model, facts.picture, num_segments, folder / "clip.onnx")
    require_clean(folder / "step.onnx", states=states, precision="float32")
    graphs: dict[GraphKind, GraphSpec] = {"step": GraphSpec("step.onnx", states)}
    if float16:
        half_states = fp16_onnx_from_model(model, facts.picture, folder / STEP_FP16)
        require_clean(folder / STEP_FP16, states=half_states, precision="float16")
        graphs["step_fp16"] = GraphSpec(STEP_FP16, half_states)
    unit = facts.model.unit
    return replace(
        bundle_of(facts),
        folder=folder,
        graphs={**graphs, "clip": GraphSpec("clip.onnx")},
        model={
            "backbone": facts.model.backbone,
            "temporal": unit.temporal,
            "pem": unit.pem,
            "form": unit.form,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    )


def _check_float(model: Tdrl, bundle: Bundle, frames: NDArray[np.uint8]) -> Parity:
    """The first law: unrolled steps of the graph equal those of the model, and the clip's."""
    unrolled, reset = frames[:PARITY_STEPS], starts_of(PARITY_STEPS)
    parity = compare(steps_of(bundle, unrolled, reset), model_steps(model, unrolled, reset))
    require_equal(parity, "step.onnx")
    T = bundle.sampling.num_segments
    clip = frames[:T]
    steps = steps_of(bundle, clip, starts_of(T))
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
    session = reference_of(str(bundle.graph_path("clip")))
    logits: Logits = session.run(None, {CLIP_INPUT: clip[np.newaxis]})[0][0]
    return logits


def _quantise(
    bundle: Bundle,
    clips: Sequence[CalibrationClip],
    frames: NDArray[np.uint8],
    *,
    cache_dir: Path | None,
    budget: float,
    worst_on: LabelledClips | None,
) -> Quantised:
    with CalibrationBar(len(clips)) as bar:
        quantised = quantise(
            bundle,
            clips,
            frames,
            starts_of(len(frames)),
            advance=bar.advance,
            cache_dir=cache_dir,
            budget=budget,
            worst_on=worst_on,
        )
    if known := quantised.recording.num_known:
        say(f"calibration: {known} of {len(clips)} clips were recorded before ({cache_dir})")
    require_clean(
        bundle.folder / quantised.graph.file,
        states=quantised.graph.states,
        precision="int8",
        float_convs=quantised.float_convs,
    )
    return quantised


def _half(bundle: Bundle, clips: LabelledClips, logits: Logits) -> HalfCheck:
    """Hold the half graph against float's logits, before calibration takes its time.

    Raises:
        GateError: It says something else.
    """
    with rounded_session(bundle) as session:
        half = half_check(logits, session_clips(session, clips.pictures), clips.label)
    require_half_pass(half)
    return half


def _gate(
    bundle: Bundle,
    quantised: Quantised,
    held_out: HeldOut,
    logits: Logits,
    tapes: Sequence[Tape],
) -> tuple[GateResult, dict[str, Any]]:
    pictures, label = held_out.clips.pictures, held_out.clips.label
    with reference_session(bundle, quantised.graph) as session:
        int8 = session_clips(session, pictures)
    live = live_loss(with_graph(bundle, quantised.graph), tapes) if tapes else None
    changed = changed_clips(logits, int8, label, bundle.labels, held_out.numbers)
    return clip_gate(logits, int8, label, live), changed


def _long_streams(
    bundle: Bundle, clips: Sequence[CalibrationClip], model: Tdrl, *, long_stream: bool
) -> dict[str, Any]:
    session = TorchSession(model)
    return drift_at_export(bundle, clips, state_parts(model), session, long_stream=long_stream)


def _judged(
    report: dict[str, Any], gate: GateResult, allowed_loss: float, out: Path
) -> dict[str, Any]:
    """The report with the gate's remarks; where it does not pass, the reason and a page of it.

    Raises:
        GateError: A limit is exceeded. The report is beside the bundle that was not made.
    """
    refused = out.with_name(f"{out.name}.{REFUSED}")
    try:
        remarks = require_pass(gate, allowed_loss=allowed_loss)
        require_steady(report)
    except GateError as err:
        write_report(refused, report, refused=str(err))
        raise GateError(f"{err} (report: {refused / PAGE})") from err
    if refused.is_dir():  # an earlier export's
        shutil.rmtree(refused)
    return {**report, "gate": {**report["gate"], "remarks": [*report["gate"]["remarks"], *remarks]}}


def _data_name(data: Path) -> str:
    """What a data set is called: its folder, or the folder of its data.yaml."""
    path = data.resolve()
    return path.name if path.is_dir() else path.parent.name


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


def _accuracies(gate: GateResult, half: HalfCheck | None) -> dict[str, float]:
    found = {
        "clip_top1_float32": gate.clips.top1_float,
        "clip_top1_int8": gate.clips.top1_int8,
        "clip_agreement": gate.agreement,
    }
    if half is not None:
        found["clip_top1_float16"] = half.top1_half
        found["clip_agreement_float16"] = half.agreement
    if gate.live is not None:
        found["live_top1_float32"] = gate.live.top1_float
        found["live_top1_int8"] = gate.live.top1_int8
    return {name: round(value, 6) for name, value in found.items()}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **installed_versions(LIBRARIES)}


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
    parser.add_argument(
        "--calibration-clips",
        type=int,
        metavar="N",
        default=MOST_CLIPS,
        help="calibration clips at most (default %(default)s)",
    )
    parser.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="DIR",
        default=default_cache_dir(),
        help="where recorded ranges are kept (default: the user's cache folder)",
    )
    parser.add_argument(
        "--float-budget",
        type=float,
        metavar="SHARE",
        default=DEFAULT_OPTIONS.float_budget,
        help="share of the work that may stay in float, 0..1 (default %(default)s)",
    )
    parser.add_argument(
        "--layer-accuracy",
        action="store_true",
        help="measure the ten most sensitive convolutions' accuracy on all validation clips, "
        "however long it takes (default: on 100 at most, and not where a minute is too short)",
    )
    parser.add_argument(
        "--gate-clips",
        type=int,
        metavar="N",
        default=MOST_GATED,
        help="validation clips that the gate measures at most (default %(default)s)",
    )
    parser.add_argument(
        "--no-float16",
        dest="float16",
        action="store_false",
        help="leave the float16 graph out, and its check",
    )
    parser.add_argument(
        "--long-stream",
        action="store_true",
        help=f"look for a drift along {LONG_STEPS:,} steps too, minutes",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.bundle`."""
    options = _parser().parse_args(argv)
    out = options.out or options.checkpoint.resolve().parent.parent / "bundle"
    built = build_bundle(
        options.checkpoint,
        options.data,
        out,
        allowed_loss=options.allowed_loss,
        most_clips=options.calibration_clips,
        cache_dir=options.calibration_cache,
        int8=Int8Options(options.float_budget, options.layer_accuracy),
        options=ExportOptions(options.float16, options.gate_clips, options.long_stream),
    )
    gate = built.report["gate"]
    say(json.dumps(built.bundle.accuracy, indent=2))
    for remark in gate["remarks"]:
        say(f"note: {remark}")
    say(built.report["verdict"]["line"])
    say(f"report {out / PAGE}")
    say(f"bundle {out}; next: make engine, or make stream")


if __name__ == "__main__":
    sys.exit(run_command(main))
