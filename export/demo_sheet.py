"""A contact sheet: frames of the annotated video at the actions' ends, with truth and answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import ExportError
from runtime.files import whole_file
from runtime.preprocess import Picture
from train.data.truth import Segment
from train.live_score import LiveDecision

COLUMNS = 6
ROWS = 5
CELL_PX = 260
CAPTION_PX = 44
RIGHT_RGB, WRONG_RGB, INK_RGB, PAPER_RGB = (
    (20, 120, 50),
    (190, 30, 30),
    (30, 30, 30),
    (250, 250, 250),
)


def draw_contact_sheet(
    video: Path, truth: Sequence[Segment], decisions: Sequence[LiveDecision], path: Path
) -> None:
    """Draw the sheet as PNG.

    Args:
        video: The annotated video, as long as the tape.
        truth: The tape's actions, in order of time.
        decisions: The runtime's decisions, in order of time; they have a `label` too.
        path: The PNG; whole or not at all.

    Raises:
        ExportError: The video cannot be read or is shorter than the actions.
    """
    chosen = _spread(truth, COLUMNS * ROWS)
    frames = _frames_at(video, [segment.end_s for segment in chosen])
    cells = [
        _cell(frame, segment.label, _answer_at(decisions, segment.end_s))
        for frame, segment in zip(frames, chosen, strict=True)
    ]
    blank = np.full_like(cells[0], PAPER_RGB)
    cells += [blank] * (-len(cells) % COLUMNS)
    rows = [np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
    sheet = np.vstack(rows)
    with whole_file(path) as part:
        if not cv2.imwrite(str(part), sheet[:, :, ::-1]):
            raise ExportError(f"{path} cannot be written")


def _spread(truth: Sequence[Segment], count: int) -> list[Segment]:
    """Evenly chosen actions, all of them where there are few."""
    places = np.linspace(0, len(truth) - 1, min(count, len(truth))).round().astype(int)
    return [truth[place] for place in places]


def _frames_at(video: Path, times_s: Sequence[float]) -> Iterator[Picture]:
    """Frames at ascending times, read in one pass."""
    capture = cv2.VideoCapture(str(video))
    fps = capture.get(cv2.CAP_PROP_FPS)
    try:
        index = -1
        for time_s in times_s:
            wanted = max(0, math.ceil(time_s * fps - 1e-6) - 1)  # the action's last frame
            while index < wanted:
                if not capture.grab():
                    raise ExportError(f"{video} ends before {time_s:.1f} s; it is incomplete")
                index += 1
            _, frame_bgr = capture.retrieve()
            yield np.ascontiguousarray(frame_bgr[:, :, ::-1]).astype(np.uint8)
    finally:
        capture.release()


def _answer_at(decisions: Sequence[LiveDecision], time_s: float) -> str:
    earlier = [decision for decision in decisions if decision.stream_time_s <= time_s + 1e-6]
    return str(getattr(earlier[-1], "label", "–")) if earlier else "–"


def _cell(frame: Picture, truth: str, answer: str) -> NDArray[np.uint8]:
    height = round(CELL_PX * frame.shape[0] / frame.shape[1])
    picture = cv2.resize(frame, (CELL_PX - 8, height - 8), interpolation=cv2.INTER_AREA)
    cell = np.full((height + CAPTION_PX, CELL_PX, 3), PAPER_RGB, np.uint8)
    cell[4 : height - 4, 4 : CELL_PX - 4] = picture
    _write(cell, f"truth  {truth}", height + 14, INK_RGB)
    _write(cell, f"said   {answer}", height + 32, RIGHT_RGB if truth == answer else WRONG_RGB)
    return cell


def _write(cell: Picture, text: str, baseline: int, colour: tuple[int, int, int]) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(cell, text, (6, baseline), font, 0.42, colour, 1, cv2.LINE_AA)
