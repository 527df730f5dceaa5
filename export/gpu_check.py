"""Prove and measure this project on an NVIDIA GPU, in eight minutes at most.

    python -m export.gpu_check
    python -m export.gpu_check --only law steps --out docs/measurements
    python -m export.gpu_check --device cpu          a trial: tiny sizes, seconds, no GPU

The repository and torch are enough: training steps in float32 and bfloat16, a resumed run against
an uninterrupted one, steps against the clip, training speed against the plain backbone, a live
step's latency and throughput with CUDA graphs, the operations that both spend most time on. What
else is installed is used too: Lightning and PyAV (the loader), onnxruntime-gpu, TensorRT,
TensorRT-RTX. What is skipped is listed with its reason. Each part has a process and a time of its
own; a failed one does not stop the others, and makes the status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.gpu.effort import EFFORTS, Device
from export.gpu.parts import PARTS, TOTAL_S
from export.gpu.report import Report, row_line
from export.gpu.row import Row
from export.gpu.runner import Outcome, Part, run_parts
from runtime.command import run_command, say
from runtime.errors import SessionError
from runtime.files import whole_file, write_json
from runtime.machine import measured_on

LIBRARIES = (
    *("torch", "triton", "numpy", "pytorch-lightning", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt_rtx_cu13", "pycuda", "cuda-bindings"),
)
OUT = Path("artifacts") / "gpu-check"
STEM = "gpu-check"


def check(parts: Sequence[Part], device: Device, *, total_s: float = TOTAL_S) -> Report:
    """Run parts and report, printing rows as they come.

    Raises:
        SessionError: The GPU that was asked for is not there.
        ImportError: torch is not installed.
    """
    machine = machine_line(device)
    effort = EFFORTS[device]
    outcomes = []
    for outcome in run_parts(parts, effort, total_s=total_s, on_row=_print_row):
        outcomes.append(outcome)
        _print_end(outcome)
    return Report(machine, effort, outcomes)


def machine_line(device: Device) -> str:
    """The machine in words.

    Raises:
        SessionError: The GPU that was asked for is not there.
        ImportError: torch is not installed.
    """
    import torch

    if device == "cpu":
        return measured_on(LIBRARIES)
    if not torch.cuda.is_available():
        build = "it is a build without CUDA" if torch.version.cuda is None else "check nvidia-smi"
        raise SessionError(
            f"torch {torch.__version__} finds no NVIDIA GPU here ({build}); run it on a CUDA "
            "machine, or try it out with --device cpu"
        )
    gpu = torch.cuda.get_device_properties(0)
    facts = (
        f"{gpu.name} (compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory >> 30} GiB, "
        f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})"
    )
    return measured_on(LIBRARIES, also=facts)


def _print_row(part: str, row: Row) -> None:
    say(row_line(part, row))


def _print_end(outcome: Outcome) -> None:
    reason = f": {outcome.reason}" if outcome.reason else ""
    say(f"{outcome.part.name:<10}{outcome.status} after {outcome.seconds:.0f} s{reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    args = _parser().parse_args(argv)
    parts = [part for part in PARTS if args.only is None or part.name in args.only]
    report = check(parts, args.device, total_s=args.minutes * 60)
    write_json(args.out / f"{STEM}.json", report.to_json())
    with whole_file(args.out / f"{STEM}.md") as page:
        page.write_text(report.markdown(), encoding="utf-8")
    where = f"{args.out / STEM}.md and .json"
    if report.failures:
        raise SessionError(f"{'; '.join(report.failures)} (all of it in {where})")
    by_status = {
        status: [o.part.name for o in report.outcomes if o.status == status]
        for status in ("done", "stopped", "skipped")
    }
    parts_said = [f"{status}: {', '.join(names)}" for status, names in by_status.items() if names]
    say(f"passed; {'; '.join(parts_said)}; {where}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.gpu_check",
        description=__doc__,
        epilog="parts:\n" + "\n".join(f"  {part.name:<10}{part.about}" for part in PARTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help="run these only")
    parser.add_argument("--device", choices=tuple(EFFORTS), default="cuda")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder (default {OUT})")
    minutes = TOTAL_S / 60
    parser.add_argument(
        "--minutes", type=_minutes, default=minutes, help=f"time for all (default {minutes:.0f})"
    )
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not minutes > 0:
        raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
    return minutes


if __name__ == "__main__":
    sys.exit(run_command(main))
