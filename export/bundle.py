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
from export.gate import ALLOWED_LOSS, GateResult, PairedLoss, clip_gate, paired_loss, require_pass
from export.golden import camera_frames, golden_frames, write_golden
from export.half_check import HalfCheck, half_check, require_half_pass, rounded_session
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
from export.parity import Parity, compare, model_steps, require_equal, session_clips
from export.report.changed_clips import changed_clips
from export.report.compose import compose
from export.report.verdict import PAGE, REFUSED, require_steady
from export.report_page import write_report
from export.stream.state_parts import state_parts
from export.to_fp16 import STEP_FP16, fp16_onnx_from_model
from export.to_onnx import clip_onnx_from_model, step_onnx_from_model
from runtime.artifacts import default_checkpoint, point_latest
from runtime.bundle import GOLDEN, Bundle, GraphSpec, load_bundle
from runtime.command import run_command
from runtime.errors import ExportError, GateError
from runtime.machine import installed_versions
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession
from train.checkpoint import Facts, load_checkpoint
from train.data.catalog import load_tape
from train.evaluate import load_clips
from train.live_evaluation import TorchSession, decide_tape
from train.live_score import answers
from train.model.tdrl import Tdrl

PARITY_STEPS = 64
LIBRARIES = ("torch", "onnx", "onnxsim", "onnxruntime", "numpy", "opencv-python")


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
    long_stream: bool = False,
    int8: Int8Options = DEFAULT_OPTIONS,
) -> Built:
    """Export, calibrate, check and bundle a checkpoint.

    Args:
        checkpoint: A causal model's checkpoint.
        data: Data folder with `calibration/` and `validation/`; `tape_validation/` is used for
            the live part of the gate where it is there.
        out: The bundle folder; an older bundle there is replaced at the very end.
        allowed_loss: Clip top-1 that INT8 may lose, 0..1.
        most_clips: Calibration clips at most; a share of them compares threshold methods.
        cache_dir: Where what calibration records is kept for the next export; None keeps nothing.
        long_stream: Look for a drift along a very long stream too.
        int8: What may stay in float, and what is measured of the layers.

    Raises:
        ValueError: `allowed_loss` or `most_clips` is out of range.
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used.
        ExportError: A graph is not what the model computes, or fails preflight.
        GateError: INT8 loses too much or goes away from float along a stream, or float16 is not
            what float says. The report is then in `bundle.refused/`, beside `out`.
    """
    if not 0 <= allowed_loss <= 1:
        raise ValueError(f"allowed_loss must be in 0..1, got {allowed_loss}; 0.005 is half a point")
    model, facts = load_checkpoint(checkpoint)
    if (reason := facts.model.offline_reason) is not None:
        raise ExportError(f"{reason}; its clip graph: python -m export.clip --help")
    with replaced_folder(out) as folder:
        clips = calibration_clips(data, facts, most=most_clips)
        bundle = _float_bundle(model, facts, folder)
        compared = comparison(clips, facts)
        frames = compared.frames
        parity = _check_float(model, bundle, frames)
        worst_on = _validation(data, facts) if int8.layer_accuracy else None
        quantised = _quantise(
            bundle,
            compared.rest,
            frames,
            cache_dir=cache_dir,
            budget=int8.float_budget,
            worst_on=worst_on,
        )
        gate, half, changed = _gate(bundle, quantised, data, facts)
        _write_golden(bundle, quantised.graph, frames)
        finished = replace(
            with_graph(bundle, quantised.graph),
            accuracy=_accuracies(gate, half),
            versions=_versions(),
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        measured = {
            "parity": parity.to_json(),
            "float16": half.to_json(),
            "calibration": {
                **quantised.recording.to_json(),
                "listed": len(clips),
                "comparing": len(compared.clips),
            },
            "quantisation": quantised.to_json(),
            "gate": {**gate.to_json(), "allowed_loss": allowed_loss},
            "changed": changed,
            **_long_streams(finished, clips, model, long_stream=long_stream),
        }
        report = compose(finished, facts, _data_name(data), measured)
        report = _judged(report, gate, half, allowed_loss, out)
        report = write_report(folder, report)
        write_manifest(finished)
    # beside the bundle: these are paths of this machine
    write_clip_list(out.parent / CLIPS, clips)
    point_latest(out.parent)
    return Built(load_bundle(out), report)


def _float_bundle(model: Tdrl, facts: Facts, folder: Path) -> Bundle:
    states = step_onnx_from_model(model, facts.picture, folder / "step.onnx")
    num_segments = facts.sampling.num_segments
    clip_onnx_from_model(model, facts.picture, num_segments, folder / "clip.onnx")
    half_states = fp16_onnx_from_model(model, facts.picture, folder / STEP_FP16)
    require_clean(folder / "step.onnx", states=states, precision="float32")
    require_clean(folder / STEP_FP16, states=half_states, precision="float16")
    unit = facts.model.unit
    return Bundle(
        folder=folder,
        name=facts.name,
        labels=facts.labels,
        picture=facts.picture,
        sampling=facts.sampling,
        operating=facts.operating,
        graphs={
            "step": GraphSpec("step.onnx", states),
            "step_fp16": GraphSpec(STEP_FP16, half_states),
            "clip": GraphSpec("clip.onnx"),
        },
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
            _starts(len(frames)),
            advance=bar.advance,
            cache_dir=cache_dir,
            budget=budget,
            worst_on=worst_on,
        )
    if known := quantised.recording.num_known:
        print(  # noqa: T201
            f"calibration: {known} of {len(clips)} clips were recorded before ({cache_dir})"
        )
    require_clean(
        bundle.folder / quantised.graph.file,
        states=quantised.graph.states,
        precision="int8",
        float_convs=quantised.float_convs,
    )
    return quantised


def _validation(data: Path, facts: Facts) -> LabelledClips:
    clips = load_clips(data, "validation", facts)
    pictures = clips.pictures.permute(0, 1, 3, 4, 2).contiguous().numpy()
    return LabelledClips(pictures, clips.label.numpy())


def _gate(
    bundle: Bundle, quantised: Quantised, data: Path, facts: Facts
) -> tuple[GateResult, HalfCheck, dict[str, Any]]:
    clips = _validation(data, facts)
    pictures, label = clips.pictures, clips.label
    logits = []
    for int8 in (None, quantised.graph):
        with reference_session(bundle, int8) as session:
            logits.append(session_clips(session, pictures))
    live = None
    if (data / "tape_validation").is_dir():
        live = _live_loss(with_graph(bundle, quantised.graph), data)
    with rounded_session(bundle) as session:
        half = half_check(logits[0], session_clips(session, pictures), label)
    changed = changed_clips(logits[0], logits[1], label, facts.labels)
    return clip_gate(logits[0], logits[1], label, live), half, changed


def _live_loss(bundle: Bundle, data: Path) -> PairedLoss:
    video, truth = load_tape(data, "tape_validation", bundle.labels)
    right = []
    for precision in ("float32", "int8"):
        with OrtStepSession(bundle, precision, optimise=False) as session:
            decisions = decide_tape(bundle, session, video)
        given = answers(truth, decisions, bundle.labels)
        wanted = [bundle.labels.index(action.label) for action in truth]
        right.append(np.array(given) == np.array(wanted))
    return paired_loss(right[0], right[1])


def _long_streams(
    bundle: Bundle, clips: Sequence[CalibrationClip], model: Tdrl, *, long_stream: bool
) -> dict[str, Any]:
    session = TorchSession(model)
    return drift_at_export(bundle, clips, state_parts(model), session, long_stream=long_stream)


def _judged(
    report: dict[str, Any], gate: GateResult, half: HalfCheck, allowed_loss: float, out: Path
) -> dict[str, Any]:
    """The report with the gate's remarks; where it does not pass, the reason and a page of it.

    Raises:
        GateError: A limit is exceeded. The report is beside the bundle that was not made.
    """
    refused = out.with_name(f"{out.name}.{REFUSED}")
    try:
        remarks = require_pass(gate, allowed_loss=allowed_loss)
        require_half_pass(half)
        require_steady(report)
    except GateError as err:
        write_report(refused, report, refused=str(err))
        raise GateError(f"{err} (report: {refused / PAGE})") from err
    if refused.is_dir():  # an earlier export's
        shutil.rmtree(refused)
    return {**report, "gate": {**report["gate"], "remarks": remarks}}


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


def _accuracies(gate: GateResult, half: HalfCheck) -> dict[str, float]:
    found = {
        "clip_top1_float32": gate.clips.top1_float,
        "clip_top1_float16": half.top1_half,
        "clip_top1_int8": gate.clips.top1_int8,
        "clip_agreement_float16": half.agreement,
        "clip_agreement": gate.agreement,
    }
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
        help="measure the accuracy of the ten most sensitive convolutions too, minutes",
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
        long_stream=options.long_stream,
        int8=Int8Options(options.float_budget, options.layer_accuracy),
    )
    gate = built.report["gate"]
    print(json.dumps(built.bundle.accuracy, indent=2))  # noqa: T201
    for remark in gate["remarks"]:
        print(f"note: {remark}")  # noqa: T201
    print(built.report["verdict"]["line"])  # noqa: T201
    print(f"report {out / PAGE}")  # noqa: T201
    print(f"bundle {out}; next: make engine, or make stream")  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_command(main))
