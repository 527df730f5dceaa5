"""What a step costs in each session of a CPU, and how near it comes to the graph as written.

The runtime's own sessions on one thread, on the pictures of one random walk. In a round every
session runs one step; ratios are taken round by round, to ONNX Runtime's float32. Time is the
process's CPU time, as in step_ratios.py. Nearness is the SQNR of the logits to ONNX Runtime with
its optimisations off, which computes a graph operation by operation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.step_ratios import NUM_CLASSES, Ratio, cpu_times, random_model, ratio_of, write_pair
from runtime.bundle import Bundle, GraphSpec, Precision
from runtime.files import sha256_of
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from runtime.selftest import sqnr_db
from runtime.sessions.base import Logits, StepSession
from runtime.sessions.choose import Backend, SessionChoice, open_chosen
from runtime.sessions.ort import OrtStepSession
from train.model.unit import UnitConfig

BACKENDS: tuple[Backend, ...] = ("ort", "openvino")
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
BASE: tuple[Backend, Precision] = ("ort", "float32")
FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class SessionCost:
    """One session on one bundle.

    Attributes:
        bundle: The bundle's name.
        session: What ran it: engine, version, precision.
        rounds: Rounds measured.
        ms: Median CPU time of a step, milliseconds.
        ratio: To ONNX Runtime's float32.
        sqnr_db: Logits against the same graph computed as written; infinite where equal.
        opened_ms: CPU time to open the session, milliseconds.
    """

    bundle: str
    session: str
    rounds: int
    ms: float
    ratio: Ratio
    sqnr_db: float
    opened_ms: float

    def to_json(self) -> dict[str, Any]:
        """The numbers for a report; an infinite SQNR is null."""
        finite = np.isfinite(self.sqnr_db)
        return asdict(self) | {"sqnr_db": round(self.sqnr_db, 1) if finite else None}


def session_costs(bundle: Bundle, *, rounds: int) -> list[SessionCost]:
    """Time the sessions of a bundle against one another.

    Args:
        bundle: A bundle with one stream and an INT8 graph.
        rounds: Rounds, >= 1.

    Raises:
        BundleError: The bundle has no INT8 graph.
        SessionError: An engine is missing or refuses the graph.
    """
    frames = wandering_pictures(bundle.picture)
    near = {name: _reference(bundle, name, frames) for name in PRECISIONS}
    with ExitStack() as opened:
        sessions: dict[tuple[Backend, Precision], StepSession] = {}
        opened_ms = {}
        for backend in BACKENDS:
            for precision in PRECISIONS:
                started_ns = time.process_time_ns()
                choice = SessionChoice(backend, precision, "measured")
                session = opened.enter_context(open_chosen(bundle, choice, 1, threads=1))
                sessions[backend, precision] = session
                opened_ms[backend, precision] = (time.process_time_ns() - started_ns) / 1e6
        logits = {key: run_frames(session, frames) for key, session in sessions.items()}
        steps = {key: _next_step(session, frames) for key, session in sessions.items()}
        times = cpu_times(steps, rounds, bundle.name)
    return [
        SessionCost(
            bundle=bundle.name,
            session=session.description,
            rounds=rounds,
            ms=float(np.median(times[key])),
            ratio=ratio_of(times[key], times[BASE]),
            sqnr_db=sqnr_db(logits[key], near[key[1]]),
            opened_ms=opened_ms[key],
        )
        for key, session in sessions.items()
    ]


def backbone_bundle(
    backbone: str, size_px: int, folder: Path, unit: UnitConfig | None = None
) -> Bundle:
    """Step graphs of a backbone with random weights, float and INT8, as a bundle without the rest.

    Args:
        backbone: Its name.
        size_px: Height and width of the picture.
        folder: Where the graphs go.
        unit: What its blocks carry; TDRL's where it is None.
    """
    rule = PictureRule(height_px=size_px, width_px=size_px)
    step, int8 = (folder / f"{backbone}-{size_px}.{name}.onnx" for name in PRECISIONS)
    states, int8_states = write_pair(random_model(backbone, unit or UnitConfig()), rule, step, int8)
    return Bundle(
        folder=folder,
        name=f"{backbone} at {size_px}",
        labels=tuple(f"class {number}" for number in range(NUM_CLASSES)),
        picture=rule,
        sampling=SamplingContract(num_segments=8, window_s=2.0, consensus_len=8),
        graphs={
            "step": GraphSpec(step.name, states),
            "step_int8": GraphSpec(int8.name, int8_states),
        },
        sha256={path.name: sha256_of(path) for path in (step, int8)},
    )


def as_markdown(rows: Sequence[SessionCost]) -> str:
    """The rows as a table for people."""
    lines = [
        "| bundle | session | step, ms | ÷ ONNX Runtime float32 | SQNR, dB | to open, ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.bundle} | {row.session} | {row.ms:.2f} | {row.ratio} "
        f"| {row.sqnr_db:.0f} | {row.opened_ms:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def wandering_pictures(rule: PictureRule) -> NDArray[np.uint8]:
    """Blocks of colour that wander, (FRAMES, H, W, 3), uint8, RGB: neighbours are alike."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (8, 8, 3))
    blocks = np.array([-(-rule.height_px // 8), -(-rule.width_px // 8), 1])
    picture = np.kron(coarse, np.ones(blocks))[: rule.height_px, : rule.width_px]
    moved = [np.roll(picture, 2 * step, axis=1) for step in range(FRAMES)]
    noise = rng.normal(0, 10, (FRAMES, *picture.shape))
    return np.clip(np.stack(moved) + noise, 0, 255).astype(np.uint8)


def run_frames(session: StepSession, frames: NDArray[np.uint8]) -> Logits:
    """Logits of a session with one stream along the frames from a reset, (S, K), float32."""
    return np.stack([session.step(0, *_call(frames, step))[0] for step in range(len(frames))])


def _reference(bundle: Bundle, precision: Precision, frames: NDArray[np.uint8]) -> Logits:
    with OrtStepSession(bundle, precision, threads=1, optimise=False) as session:
        return run_frames(session, frames)


def _next_step(session: StepSession, frames: NDArray[np.uint8]) -> Callable[[], object]:
    """A call that runs the session's next step, the first one from the zero state."""
    # made beforehand: what is timed is the step
    others = itertools.cycle([_call(frames, 1 + at) for at in range(len(frames))])
    calls = itertools.chain([_call(frames, 0)], others)
    return lambda: session.step(0, *next(calls))


def _call(frames: NDArray[np.uint8], step: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    at = step % len(frames)
    return frames[at : at + 1], np.full((1, 1), float(step == 0), np.float32)
