"""Record what a step graph's tensors hold while real clips stream through it.

States are fed back as they are live: calibration sees state trajectories, never zeros alone.
Half of the clips start at a reset, the other half continues streams of eight clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calib.clip_list import CalibrationClip
from calib.histogram import Histogram
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.errors import DataError
from runtime.preprocess import Picture, PictureRule, fit_picture
from runtime.sampling import SamplingContract
from runtime.segments import SegmentSchedule
from runtime.sources.file import FileSource

CLIPS_A_STREAM = 8


def no_news(_: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Recording:
    """What was recorded.

    Attributes:
        histograms: One for each observed tensor, by name.
        num_clips: Clips that were streamed.
        num_steps: Steps in all.
        num_resets: Steps that started from the zero state.
    """

    histograms: dict[str, Histogram]
    num_clips: int
    num_steps: int
    num_resets: int


def clip_pictures(
    clip: CalibrationClip, picture: PictureRule, sampling: SamplingContract
) -> list[Picture]:
    """The model's pictures of a clip, chosen by the live schedule.

    Raises:
        SourceError: The file cannot be read.
        DataError: The file ends before the clip starts.
    """
    schedule = SegmentSchedule(sampling.window_s, sampling.num_segments)
    pictures = []
    with FileSource(Path(clip.path)) as source:
        for frame in source:
            if frame.stream_time_s > clip.end_s:
                break
            if frame.stream_time_s >= clip.start_s and schedule.offer(frame.stream_time_s):
                pictures.append(fit_picture(frame.image_rgb, picture))
    if not pictures:
        raise DataError(f"{clip.path} holds no frame between {clip.start_s} and {clip.end_s} s")
    return pictures


def reset_flags(num_clips: int) -> list[bool]:
    """Whether each clip starts from the zero state.

    Example:
        >>> reset_flags(4)
        [True, True, True, False]
    """
    half = (num_clips + 1) // 2
    return [i < half or (i - half) % CLIPS_A_STREAM == 0 for i in range(num_clips)]


def record(
    observed: Path,
    states: Sequence[StateSpec],
    clips: Sequence[CalibrationClip],
    picture: PictureRule,
    sampling: SamplingContract,
    *,
    advance: Callable[[int], object] = no_news,
) -> Recording:
    """Stream clips through a float step graph and count its tensors' magnitudes.

    Args:
        observed: A step graph (N = 1) with the tensors to observe as further outputs.
        states: The graph's states.
        clips: What to stream.
        picture: The model's picture rule.
        sampling: The sampling contract.
        advance: Called with 1 after every clip.

    Returns:
        The recording.

    Raises:
        DataError: No clips, a clip holds no frames, or a tensor is not finite.
        SourceError: A file cannot be read.
    """
    if not clips:
        raise DataError("calibration needs at least one clip, got none")
    session = _session(observed)
    fixed = {LOGITS_OUTPUT, *(state.name_out for state in states)}
    names = [output.name for output in session.get_outputs()]
    histograms = {name: Histogram() for name in names if name not in fixed}
    num_steps = num_resets = 0
    for values, is_reset in _steps(session, names, states, clips, picture, sampling, advance):
        num_steps += 1
        num_resets += is_reset
        for name, histogram in histograms.items():
            _count(histogram, name, values[name])
    return Recording(histograms, len(clips), num_steps, num_resets)


def _count(histogram: Histogram, name: str, values: NDArray[np.float32]) -> None:
    try:
        histogram.add(values)
    except ValueError as err:
        raise DataError(f"tensor {name}: {err}") from err


def _session(path: Path) -> Any:
    options = ort.SessionOptions()
    # every observed tensor must exist as it was exported: no fusion across it
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _steps(
    session: Any,
    names: list[str],
    states: Sequence[StateSpec],
    clips: Sequence[CalibrationClip],
    picture: PictureRule,
    sampling: SamplingContract,
    advance: Callable[[int], object],
) -> Iterator[tuple[dict[str, NDArray[np.float32]], bool]]:
    """Outputs of every step, and whether it started from the zero state."""
    carried = {state.name_in: np.zeros(state.shape, np.float32) for state in states}
    for clip, starts in zip(clips, reset_flags(len(clips)), strict=True):
        for index, image in enumerate(clip_pictures(clip, picture, sampling)):
            is_reset = starts and index == 0
            feeds = {
                FRAME_INPUT: image[np.newaxis],
                RESET_INPUT: np.full((1, 1), is_reset, np.float32),
                **carried,
            }
            values = dict(zip(names, session.run(names, feeds), strict=True))
            carried = {state.name_in: values[state.name_out] for state in states}
            yield values, is_reset
        advance(1)
