"""Record what a step graph's tensors hold while real clips stream through it.

States are fed back as they are live: calibration sees state trajectories, never zeros alone.
Half of the clips start at a reset, the other half continues streams of eight clips. Nothing but
histograms is kept, so memory does not grow with the clips.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calib.cache import RecordingFile, recording_key
from calib.clip_list import CalibrationClip
from calib.histogram import Histogram
from calib.recording import Recording
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.errors import DataError, SourceError
from runtime.preprocess import Picture, PictureRule, fit_picture
from runtime.sampling import SamplingContract
from runtime.segments import SegmentSchedule
from runtime.sources.file import FileSource
from runtime.sources.frame import FrameSource
from runtime.sources.images import ImageFolder

logger = logging.getLogger(__name__)

CLIPS_A_STREAM = 8
# A recording that is one long clip would outweigh all others, and fill the memory.
MOST_WINDOWS = 8
MOST_UNREADABLE = 0.05


def no_news(_: int) -> None:
    """Progress that nobody watches."""


def clip_pictures(
    clip: CalibrationClip, picture: PictureRule, sampling: SamplingContract
) -> list[Picture]:
    """The model's pictures of a clip, chosen by the live schedule: those of its first 8 windows.

    Raises:
        SourceError: The file or folder cannot be read.
        DataError: It ends before the clip starts.
    """
    schedule = SegmentSchedule(sampling.window_s, sampling.num_segments)
    pictures: list[Picture] = []
    with _opened(clip) as source:
        for frame in source:
            is_through = len(pictures) == MOST_WINDOWS * sampling.num_segments
            if frame.stream_time_s > clip.end_s or is_through:
                break
            if frame.stream_time_s >= clip.start_s and schedule.offer(frame.stream_time_s):
                pictures.append(fit_picture(frame.image_rgb, picture))
    if not pictures:
        raise DataError(f"{clip.path} holds no frame between {clip.start_s} and {clip.end_s} s")
    return pictures


def _opened(clip: CalibrationClip) -> FrameSource:
    path = Path(clip.path)
    return ImageFolder(path, fps=clip.fps or None) if path.is_dir() else FileSource(path)


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
    cache_dir: Path | None = None,
) -> Recording:
    """Stream clips through a float step graph and count its tensors' magnitudes.

    Clips that cannot be read are left out and listed, up to 5 % of them.

    Args:
        observed: A step graph (N = 1) with the tensors to observe as further outputs.
        states: The graph's states.
        clips: What to stream.
        picture: The model's picture rule.
        sampling: The sampling contract.
        advance: Called with 1 after every clip; before that, with the number of clips that the
            cache holds, if any.
        cache_dir: Where recordings are kept. One of the same graph, clips and preprocessing is
            read from there; an unfinished one is gone on with, and the result is the same as
            without the interruption. None keeps nothing.

    Returns:
        The recording.

    Raises:
        DataError: No clips, more than 5 % of them cannot be read, or a tensor is not finite.
    """
    if not clips:
        raise DataError("calibration needs at least one clip, got none")
    found, keep = Recording({}), None
    if cache_dir is not None:
        key = recording_key(observed, states, clips, picture, sampling)
        keep = RecordingFile(cache_dir, key)
        found = keep.load() or found
    found = replace(found, num_known=found.num_done)
    if found.num_known:
        advance(found.num_known)
    if found.num_done < len(clips):
        recorder = _Recorder(_session(observed), states, picture, sampling, found)
        found = _go_on(recorder, clips, advance, keep)
    if found.unreadable:
        logger.warning(
            "%d of %d calibration clips cannot be read and are left out, the first one: %s",
            len(found.unreadable),
            len(clips),
            found.unreadable[0],
        )
    return found


def require_readable(unreadable: Sequence[str], num_clips: int) -> None:
    """Refuse calibration clips of which too many cannot be read.

    Args:
        unreadable: Why clips cannot be read.
        num_clips: Clips in all.

    Raises:
        DataError: More than 5 % cannot be read.
    """
    if len(unreadable) > MOST_UNREADABLE * num_clips:
        raise DataError(
            f"{len(unreadable)} of {num_clips} calibration clips cannot be read, at most "
            f"{MOST_UNREADABLE:.0%} may; mend or remove them, the first one: {unreadable[0]}"
        )


class _Recorder:
    """Streams clips through a session and counts what its tensors hold.

    Args:
        session: The observed graph's session.
        states: The graph's states.
        picture: The model's picture rule.
        sampling: The sampling contract.
        start: What an earlier run recorded; its histograms are counted on.
    """

    def __init__(
        self,
        session: Any,
        states: Sequence[StateSpec],
        picture: PictureRule,
        sampling: SamplingContract,
        start: Recording,
    ) -> None:
        self._session, self._states = session, states
        self._picture, self._sampling = picture, sampling
        self._names = [output.name for output in session.get_outputs()]
        fixed = {LOGITS_OUTPUT, *(state.name_out for state in states)}
        observed = [name for name in self._names if name not in fixed]
        self._histograms = start.histograms or {name: Histogram() for name in observed}
        self._num_clips, self._num_steps = start.num_clips, start.num_steps
        self._num_resets, self._num_known = start.num_resets, start.num_known
        self.unreadable = list(start.unreadable)
        self._carried: dict[str, NDArray[np.float32]] = {}
        self._starts = True

    @property
    def recording(self) -> Recording:
        """What was recorded so far."""
        return Recording(
            self._histograms,
            self._num_clips,
            self._num_steps,
            self._num_resets,
            tuple(self.unreadable),
            self._num_known,
        )

    def offer(self, clip: CalibrationClip, *, starts: bool) -> None:
        """Stream one clip; `starts` begins a new stream.

        Raises:
            DataError: A tensor is not finite.
        """
        if starts:
            self._starts = True
            # nothing is left over, as in a run that goes on here
            self._carried = {
                state.name_in: np.zeros(state.shape, np.float32) for state in self._states
            }
        try:
            pictures = clip_pictures(clip, self._picture, self._sampling)
        except (SourceError, DataError) as err:
            self.unreadable.append(str(err))
            return
        for image in pictures:
            self._step(image)
        self._num_clips += 1

    def _step(self, image: Picture) -> None:
        feeds = {
            FRAME_INPUT: image[np.newaxis],
            RESET_INPUT: np.full((1, 1), self._starts, np.float32),
            **self._carried,
        }
        values = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        self._carried = {state.name_in: values[state.name_out] for state in self._states}
        self._num_steps += 1
        self._num_resets += self._starts
        self._starts = False
        for name, histogram in self._histograms.items():
            _count(histogram, name, values[name])


def _go_on(
    recorder: _Recorder,
    clips: Sequence[CalibrationClip],
    advance: Callable[[int], object],
    keep: RecordingFile | None,
) -> Recording:
    """Stream the clips that are left; what was recorded is kept at ends of streams."""
    first = num_kept = recorder.recording.num_done
    for stream in _streams(len(clips)):
        if stream.start < first:
            continue
        for index in stream:
            recorder.offer(clips[index], starts=index == stream.start)
            require_readable(recorder.unreadable, len(clips))
            advance(1)
        # not at each end: half of the streams are one clip
        is_due = stream.stop - num_kept >= CLIPS_A_STREAM or stream.stop == len(clips)
        if keep is not None and is_due:
            keep.save(recorder.recording)
            num_kept = stream.stop
    return recorder.recording


def _streams(num_clips: int) -> list[range]:
    """The clips of each stream, by index; every stream starts from the zero state."""
    starts = [index for index, flag in enumerate(reset_flags(num_clips)) if flag]
    return [
        range(start, stop) for start, stop in zip(starts, [*starts[1:], num_clips], strict=True)
    ]


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
