"""What the runtime itself costs a tick, stage by stage."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bench.camera import HEIGHT_PX, WIDTH_PX, camera_file, camera_pictures
from export.bench.decoding import frame_ms
from export.bench.effort import TINY, Effort
from export.bench.models import Models, fast_choice, one_thread_session
from export.bench.timed import CpuTimedSession, timed
from export.bench.values import Table
from runtime.bundle import Bundle
from runtime.event_log import EventFile, EventLog
from runtime.events import decision_to_json
from runtime.live import Stream
from runtime.outputs import Outputs
from runtime.sources.bgr_frame import fit_frame, frame_from_bgr
from runtime.sources.frame import Frame
from runtime.sources.memory import MemorySource
from runtime.stepper import Moment
from runtime.web.board import Board
from runtime.web.pictures import jpeg_of

COLUMNS = ("grab", "decode", "resize", "step", "decide", "events", "web")
OWN = ("decode", "resize", "decide", "events", "web")
WATCHED = ("colour", "JPEG")
PICTURES = 8
WARM_UP = 4
STAGES_TEXT = (
    f"One tick of a {WIDTH_PX} × {HEIGHT_PX} H.264 stream, CPU time of the process, the decoder's "
    "threads included. *grab*: FFmpeg decodes, until its threads rest; *decode*: to a BGR picture; "
    "*resize*: crop, resize "
    "and RGB of the small picture; *step*: the engine; *decide*: schedule, rows, consensus, "
    "softmax; *events*: the decision's line in the event file; *web*: what the loop gives the "
    "page. *Own*: all but grab and step. Who draws, records or watches the whole picture needs it "
    "in RGB, *colour*; a watched page costs that and *JPEG*, on another thread, at most ten times "
    "a second."
)


def measure_stages(models: Models, effort: Effort, folder: Path) -> Table:
    """The table `stages`."""
    header = ("bundle", *COLUMNS, "own", *WATCHED)
    table = Table("stages", "The runtime's own cost of a tick, ms", STAGES_TEXT, header)
    video = camera_file(folder, effort.video_s)
    for case in dict.fromkeys((TINY, *effort.cases[:1])):
        bundle = models.bundle(case)
        ms = frame_ms(video, effort.ticks) | _tick_ms(bundle, folder, effort.ticks)
        ms["own"] = np.sum([ms[name] for name in OWN], axis=0)
        cells = [str(table.add(f"{bundle.name}/{name}", ms[name], "ms")) for name in header[1:]]
        table.add(f"{bundle.name}/line", ms["line"], "bytes")
        table.rows.append((bundle.name, *cells))
    return table


def _tick_ms(bundle: Bundle, folder: Path, ticks: int) -> dict[str, NDArray[np.float64]]:
    """From a decoded frame to what people see, tick by tick, in the runtime's own loop."""
    times: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as opened:
        session = CpuTimedSession(opened.enter_context(one_thread_session(bundle, fast_choice())))
        source = MemorySource(_ticks(bundle, ticks + WARM_UP))
        stream = Stream(bundle, source, session)
        events = EventFile(folder / f"{bundle.folder.name}.jsonl", max_bytes=10**9, keep=1)
        outputs = opened.enter_context(Outputs(bundle, source.name))
        outputs.log_to(opened.enter_context(EventLog(events)))
        board = Board().add(bundle, stream)
        moments = stream.moments()
        for _ in range(ticks + WARM_UP):
            moment, loop_ms = timed(partial(next, moments))
            _, resize_ms = timed(partial(fit_frame, moment.frame, bundle.picture))
            times["resize"].append(resize_ms)
            times["step"].append(session.cpu_ms)
            times["decide"].append(max(0.0, loop_ms - session.cpu_ms - resize_ms))
            times["events"].append(timed(partial(outputs.show, moment))[1])
            times["line"].append(_line_bytes(moment, bundle))
            times["web"].append(timed(partial(board.see, moment))[1])
            image, colour_ms = timed(partial(getattr, moment.frame, "image_rgb"))
            times["colour"].append(colour_ms)
            times["JPEG"].append(timed(partial(jpeg_of, image))[1])
    return {name: np.array(each[WARM_UP:]) for name, each in times.items()}


def _line_bytes(moment: Moment, bundle: Bundle) -> int:
    """Length of a decision's line in the event file."""
    if moment.decision is None:
        return 0
    return len(json.dumps(decision_to_json(moment.decision, bundle.labels))) + 1


def _ticks(bundle: Bundle, count: int) -> Iterator[Frame]:
    """A frame for each tick of one phase."""
    # BGR, as the decoder gives them
    pictures = [np.ascontiguousarray(each[..., ::-1]) for each in camera_pictures(PICTURES)]
    for number in range(count):
        time_s = number * bundle.sampling.spacing_s
        yield frame_from_bgr(pictures[number % PICTURES], number, time_s, time.monotonic_ns())
