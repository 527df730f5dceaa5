"""Prove a device: the golden sequence through its engine, then how fast it is. `make verify`.

    python -m export.verify                                    # artifacts/latest/bundle
    python -m export.verify BUNDLE --precision int8
    python -m export.verify BUNDLE --out today.json --against verify-before.json

Every precision that the bundle has runs the golden frames through the engine that is there:
OpenVINO or ONNX Runtime on a CPU, TensorRT on a Jetson or another NVIDIA GPU (built first where
there is none). The logits must be the stored ones, step by step, in one phase, in two, and in a
batch whose rows differ; camera-sized frames must become the stored pictures. What fails is named
by its first bad step and by what that usually means. Then each part of a decision is timed, back
to back and at the pace of a live stream, beside what was predicted of the board. It needs neither
torch nor onnx. Status 1: something failed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from export.decibels import bounded_db
from export.proof.cause import Evidence, blind_spots, find_cause
from export.proof.expected import expected_of
from export.proof.golden import (
    ONE_PHASE,
    ROWS,
    SAME_ROWS,
    TWO_PHASES,
    Run,
    check_camera_pictures,
    first_bad_step,
    judge_run,
    run_golden,
)
from export.proof.latency import batch_timing, decision_timings, live_interval_s
from export.proof.report import (
    Check,
    Proof,
    Report,
    compare_reports,
    read_report,
    without_folders,
)
from export.proof.session import Opener
from export.to_engine import precisions_of
from runtime.artifacts import ARTIFACTS, default_bundle
from runtime.build_progress import StderrBar
from runtime.bundle import GRAPH_OF, Bundle, Golden, Precision, load_bundle, load_golden
from runtime.command import one_line, run_command, say
from runtime.device_facts import Facts, device_facts, device_state
from runtime.engine import default_engine_dir
from runtime.errors import EngineError, SessionError
from runtime.files import write_json
from runtime.nvidia import find_tensorrt, library_version
from runtime.sampling import default_phases
from runtime.selftest import stored_logits
from runtime.sessions.base import StepSession
from runtime.sessions.choose import BACKENDS, Backend, choose_session
from runtime.sessions.cuda_memory import cuda_device

STEPS = 200
PACED_STEPS = 60
ROWS_CHECKED = 2
CPU_ENGINES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Effort:
    """How much to check and to measure.

    Attributes:
        rows: Rows of the batch that is checked and timed; 1 leaves it out.
        steps: Steps measured back to back; 0 measures nothing.
        paced_steps: Steps measured at the live pace; 0 leaves them out.
    """

    rows: int = ROWS_CHECKED
    steps: int = STEPS
    paced_steps: int = PACED_STEPS

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"--streams must be >= 1, got {self.rows}")
        if self.steps < 0 or self.paced_steps < 0:
            raise ValueError(
                f"--steps and --paced-steps must be >= 0, got {self.steps}, {self.paced_steps}"
            )


@dataclass(frozen=True)
class Case:
    """One precision of a bundle, and what it has to match.

    Attributes:
        bundle: The bundle.
        golden: Its golden sequence.
        precision: Which graph.
    """

    bundle: Bundle
    golden: Golden
    precision: Precision

    def checks(self, session: StepSession, names: Sequence[str]) -> list[Check]:
        """Run the golden sequence in the named ways; it ends with the first that fails.

        Raises:
            BundleError: The bundle has no golden logits of this precision.
            SessionError: The engine failed.
        """
        found = []
        for name in names:
            found.append(self._check(session, run_golden(session, self.golden, name)))
            if found[-1].bad is not None:
                break
        return found

    def _check(self, session: StepSession, run: Run) -> Check:
        stored = stored_logits(self.bundle, self.golden, self.precision)
        verdict = judge_run(run, stored, self.precision)
        bad = first_bad_step(run, stored, self.precision, self.bundle.labels)
        in_float = run.of(self.golden.logits)
        cause = ""
        if bad is not None:
            _say(f"{self.precision}, {run.name}: wrong; looking for the cause")
            cause = find_cause(self._evidence(session), run)
        return Check(
            name=run.name,
            steps=len(run.visits),
            sqnr_db=round(bounded_db(run.got, run.of(stored)), 2),
            needed_db=verdict.lowest_db,
            float_db=round(bounded_db(run.got, in_float), 2),
            float_top1=float((run.got.argmax(1) == in_float.argmax(1)).mean()),
            bad=bad,
            cause=cause,
        )

    def blind_spots(self, session: StepSession) -> list[str]:
        """Faults that the golden sequence would not show in this precision."""
        has_states = bool(self.bundle.graph(GRAPH_OF[self.precision]).states)
        return blind_spots(self._evidence(session), has_states=has_states)

    def _evidence(self, session: StepSession) -> Evidence:
        stored = {
            name: stored_logits(self.bundle, self.golden, name)
            for name, kind in GRAPH_OF.items()
            if kind in self.bundle.graphs
        }
        return Evidence(session, self.golden, self.precision, stored)


def prove(opener: Opener, golden: Golden, precision: Precision, effort: Effort) -> Proof:
    """Check one precision, and time it if it is right.

    Raises:
        BundleError: The bundle lacks what it needs for that.
    """
    proof = Proof(precision)
    case = Case(opener.bundle, golden, precision)
    phases = max(2, default_phases(opener.bundle.sampling))
    try:
        with opener.open(precision, 1, phases) as session:
            proof.engine = session.description
            _say(f"{precision}: {session.description}")
            proof.checks += case.checks(session, (ONE_PHASE, TWO_PHASES))
            if not proof.failure:
                proof.blind_to += case.blind_spots(session)
                _time_decisions(proof, case, session, effort)
        if not proof.failure and effort.rows > 1:
            with opener.open(precision, effort.rows, 1) as session:
                proof.checks += case.checks(session, (SAME_ROWS, ROWS))
                if not proof.failure and effort.steps:
                    proof.timings.append(batch_timing(session, golden.frames, effort.steps))
    except (EngineError, SessionError) as err:
        proof.error = without_folders(one_line(err))
    return proof


def _time_decisions(proof: Proof, case: Case, session: StepSession, effort: Effort) -> None:
    interval_s = live_interval_s(case.bundle)
    for paced, steps in ((False, effort.steps), (True, effort.paced_steps)):
        if steps == 0:
            continue
        pace = f"every {interval_s:.2f} s" if paced else "back to back"
        with StderrBar(f"{proof.precision}: {steps} steps {pace}") as bar:
            proof.timings += decision_timings(
                case.bundle,
                session,
                case.golden.camera_frames[0],
                paced=paced,
                steps=steps,
                on_progress=bar,
            )


def verify(opener: Opener, precisions: Sequence[Precision], effort: Effort) -> Report:
    """Everything about a bundle on this device.

    Args:
        opener: Opens sessions.
        precisions: What to check, in order.
        effort: How much.

    Raises:
        BundleError: The bundle lacks what it needs.
    """
    bundle = opener.bundle
    golden = load_golden(bundle)
    facts, idle = _facts(opener.backend), device_state()
    pictures = check_camera_pictures(bundle, golden)
    proofs = [prove(opener, golden, precision, effort) for precision in precisions]
    for proof in proofs:
        proof.expected = expected_of(
            bundle, str(facts.get("board", "")), proof.precision, proof.timings
        )
    return Report(
        bundle=bundle.name,
        model=dict(bundle.model),
        size_px=(bundle.picture.height_px, bundle.picture.width_px),
        graphs=dict(bundle.sha256),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        facts=facts,
        idle=idle,
        loaded=device_state(),
        pictures=pictures,
        proofs=proofs,
        live_interval_ms=round(1e3 * live_interval_s(bundle), 3),
    )


def _facts(backend: Backend) -> Facts:
    """What the device is, with the engine and, where the engine is on it, the GPU."""
    facts = device_facts()
    if backend in CPU_ENGINES:
        return facts | {"engine": f"{CPU_ENGINES[backend]} on the CPU"}
    trt, device = find_tensorrt((backend,)), cuda_device()
    facts["engine"] = backend if trt is None else library_version(trt)
    if device is not None:
        facts |= {"gpu": device.name, "compute_capability": device.compute_capability}
    return facts


def default_out(bundle: Bundle) -> Path:
    """Beside a bundle in `artifacts`; else `verify-NAME.json` in the current folder."""
    run = bundle.folder.resolve().parent
    if run.parent == ARTIFACTS.resolve():
        return run / "verify.json"
    return Path(f"verify-{re.sub(r'[^A-Za-z0-9._-]+', '-', bundle.name)}.json")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  progress; the result goes to stdout


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    args = _parser().parse_args(argv)
    effort = Effort(args.streams, args.steps, args.paced_steps)
    bundle = load_bundle(args.bundle or default_bundle())
    out = args.out or default_out(bundle)
    before = None if args.against is None else read_report(args.against)
    if before is not None and out.resolve() == args.against.resolve():
        raise ValueError(f"the new report would replace {out}; pass another --out")
    backend = choose_session(bundle, args.backend, "float32").backend
    opener = Opener(bundle, backend, args.engine_dir, args.threads)
    report = verify(opener, precisions_of(bundle, args.precision), effort)
    data = report.to_json()
    write_json(out, data)
    say(report.markdown())
    if report.failures:
        raise SessionError(f"{report.failures[0]} (all of it in {out})")
    if before is not None:
        comparison = compare_reports(data, before)
        say("\n".join([comparison.table, *comparison.remarks]))
        if comparison.slower:
            raise SessionError(f"slower than {args.against}: {'; '.join(comparison.slower)}")
    say(f"verified: this device computes what {bundle.name} promises; {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="bundle folder (artifacts/latest/bundle)"
    )
    parser.add_argument("--precision", choices=("auto", *GRAPH_OF), default="auto")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument(
        "--streams",
        type=int,
        default=ROWS_CHECKED,
        metavar="N",
        help="rows of the batch to check; TensorRT builds another engine for it; 1 leaves it out "
        "(%(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="steps timed back to back (%(default)s)"
    )
    parser.add_argument(
        "--paced-steps", type=int, default=PACED_STEPS, help="steps timed live (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report as JSON")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="an earlier report: fail where p95 is 1.3 times",
    )
    parser.add_argument("--engine-dir", type=Path, help=f"({default_engine_dir()})")
    parser.add_argument("--threads", type=int, help="threads of a step on the CPU")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
