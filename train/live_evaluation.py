"""Live accuracy of a model: it runs on tapes through the real runtime, PyTorch as its engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.live import Stream
from runtime.policy import Policy, background_of
from runtime.preprocess import Picture
from runtime.sessions.base import Held, Logits, StepSession
from runtime.sources.choose import open_source
from runtime.sources.frame import Frame, FrameSource, SourceCounts
from train.checkpoint import Facts
from train.data.truth import Segment
from train.live_events import Event
from train.live_score import LiveDecision, LiveScore, LiveTape, score_tapes
from train.model.tdrl import Tdrl

# A tape shorter than this many earlier actions still gets a number.
MIN_EARLIER = 16
# In place of pictures that no one will look at again.
BLANK: Picture = np.zeros((8, 8, 3), np.uint8)


class TorchSession:
    """A PyTorch model as a session of the runtime: one stream, one phase.

    Args:
        model: A causal model, in evaluation mode.
        device: Where it runs.
    """

    num_streams = 1
    num_phases = 1

    def __init__(self, model: Tdrl, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._model = model.to(self._device)
        self._state: list[Tensor] | None = None

    @property
    def description(self) -> str:
        """Engine and device, for people."""
        return f"PyTorch {torch.__version__} ({self._device.type}), float32"

    @torch.inference_mode()
    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance by one frame; see `runtime.sessions.base.StepSession.step`."""
        if phase != 0 or frames.shape[0] != 1 or held is not None:
            raise ValueError(f"one stream and one phase, got phase {phase}, {frames.shape[0]} rows")
        picture = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).to(self._device)
        state = None if reset[0, 0] > 0.5 else self._state
        logits, self._state = self._model.step(picture, state)
        return np.asarray(logits.cpu().numpy(), np.float32)

    def close(self) -> None:
        """Forget the state."""
        self._state = None

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class RecordedSession:
    """Gives the logits of an earlier run again, so that other settings cost no model time.

    Args:
        source: Runs and is recorded; None replays `logits`.
        logits: The steps so far, appended to or replayed.
    """

    num_streams = 1
    num_phases = 1
    description = "recorded logits"

    def __init__(self, source: StepSession | None, logits: list[Logits]) -> None:
        self._source = source
        self._logits = logits
        self._next = 0

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Record or replay one step; see `runtime.sessions.base.StepSession.step`."""
        if self._source is not None:
            self._logits.append(self._source.step(phase, frames, reset, held))
        self._next += 1
        return self._logits[self._next - 1]

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> RecordedSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(eq=False)
class Recording:
    """A tape the model has seen: its frames' times and the logits of every step.

    Attributes:
        frames: The frames with a blank in place of the picture.
        logits: One entry a step.
    """

    frames: list[Frame] = field(default_factory=list)
    logits: list[Logits] = field(default_factory=list)


class RecordedSource:
    """The frames of a recording, or those of a source while they are recorded.

    Args:
        source: Gives the frames and is recorded; None replays `frames`.
        frames: The frames so far, appended to or replayed.
    """

    is_live = False
    fps: float | None = None

    def __init__(self, source: FrameSource | None, frames: list[Frame]) -> None:
        self._source = source
        self._frames = frames
        self.name = "recording" if source is None else source.name

    @property
    def counts(self) -> SourceCounts:
        """Frames there are; none is ever dropped."""
        return SourceCounts(captured=len(self._frames))

    def __iter__(self) -> Iterator[Frame]:
        if self._source is None:
            yield from self._frames
            return
        for frame in self._source:
            self._frames.append(replace(frame, image_rgb=BLANK))
            yield frame

    def stop(self) -> None:
        """Nothing to stop: who iterates may leave."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> RecordedSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def decide_tape(bundle: Bundle, session: StepSession, video: Path) -> list[Decision]:
    """All decisions on a video, through the runtime's own source, schedule and consensus.

    Raises:
        SourceError: The video cannot be read.
        SessionError: The session failed.
    """
    with open_source(str(video)) as source:
        stream = Stream(bundle, source, session)
        title = f"tape, {session.description}"
        return list(tqdm(stream, desc=title, unit="decision", disable=None))


def record_tape(bundle: Bundle, session: StepSession, video: Path) -> Recording:
    """Let a session see a video once, and keep what other settings need.

    Raises:
        SourceError: The video cannot be read.
        SessionError: The session failed.
    """
    with open_source(str(video)) as source:
        return record_source(bundle, session, source)


def record_source(bundle: Bundle, session: StepSession, source: FrameSource) -> Recording:
    """The same for a source that is open.

    Raises:
        SourceError: A frame cannot be read.
        SessionError: The session failed.
    """
    recording = Recording()
    recorded = RecordedSource(source, recording.frames)
    for _ in Stream(bundle, recorded, RecordedSession(session, recording.logits)):
        pass
    return recording


def decide_again(bundle: Bundle, recording: Recording) -> list[Decision]:
    """The decisions another consensus would have made: no decoding, no model."""
    source = RecordedSource(None, recording.frames)
    return list(Stream(bundle, source, RecordedSession(None, recording.logits)))


def score_tape(
    bundle: Bundle,
    decisions: Sequence[LiveDecision],
    truth: Sequence[Segment],
    events: Sequence[Event] | None = None,
) -> LiveScore:
    """Live metrics of one tape's decisions; events as the bundle's policy finds them, or given."""
    return score_runs(bundle, [replace(live_tape(decisions, truth), events=events)])


def score_runs(
    bundle: Bundle, tapes: Sequence[LiveTape], policy: Policy | None = None
) -> LiveScore:
    """Live metrics of all tapes together; the background is found by its name.

    Args:
        bundle: Labels, window and policy.
        tapes: What was seen and what happened.
        policy: Another policy than the bundle's.
    """
    return score_tapes(
        tapes,
        bundle.labels,
        window_s=bundle.sampling.window_s,
        background=background_of(bundle.labels),
        policy=bundle.operating.policy if policy is None else policy,
    )


def live_tape(decisions: Sequence[LiveDecision], truth: Sequence[Segment]) -> LiveTape:
    """A tape to score: 16 earlier actions, or half of a short tape's."""
    return LiveTape(truth, decisions, min(MIN_EARLIER, max(0, len(truth) // 2)))


def bundle_of(facts: Facts) -> Bundle:
    """A bundle without a folder: what the runtime must know to run a model from memory."""
    return Bundle(
        folder=Path(),
        name=facts.name,
        labels=facts.labels,
        picture=facts.picture,
        sampling=facts.sampling,
        operating=facts.operating,
        graphs={},
    )
