"""The board as Prometheus reads it.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.web.board import TIME_BOUNDS_S, Board, StreamBoard

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTERS = (
    ("tdrl_frames_total", "captured", "Frames that the source grabbed."),
    ("tdrl_frames_dropped_total", "dropped", "Frames that a newer one replaced unseen."),
    ("tdrl_steps_total", "used", "Frames that went through the model."),
    ("tdrl_ticks_missed_total", "missed", "Ticks that no frame came for."),
    ("tdrl_reconnects_total", "reconnects", "Times that a lost source came back."),
)
# one event file, webhook and folder of recordings for all streams
SHARED = (
    ("tdrl_event_lines_lost_total", "lines_lost", "Event lines that were never written."),
    ("tdrl_webhook_sent_total", "webhook_sent", "Events that the webhook took."),
    ("tdrl_webhook_dropped_total", "webhook_dropped", "Events that the webhook never got."),
    ("tdrl_recordings_total", "recordings", "Recordings that are whole on disk."),
    ("tdrl_recordings_lost_total", "recordings_lost", "Recordings that the disk did not take."),
    ("tdrl_recordings_removed_total", "recordings_removed", "Recordings removed for newer ones."),
)
LOST_FRAMES = "record_frames_lost"
STAGES_TEXT = "Crop and resize, the engine's step, and all from a frame's grab to its decision."


def metrics_text(board: Board) -> str:
    """All metrics of all streams."""
    lines: list[str] = []
    for name, field, text in COUNTERS:
        lines += _head(name, "counter", text)
        lines += [f"{name}{_labels(each)} {each.counts[field]}" for each in board.streams]
    lines += _head("tdrl_actions_total", "counter", "Actions that ended.")
    for each in board.streams:
        for label, count in sorted(each.actions().items()):
            lines.append(f"tdrl_actions_total{_labels(each, label=label)} {count}")
    lines += _outputs(board)
    lines += _head("tdrl_source_up", "gauge", "Whether frames come.")
    lines += [f"tdrl_source_up{_labels(each)} {int(each.is_up)}" for each in board.streams]
    lines += _head("tdrl_last_frame_age_seconds", "gauge", "Since the newest frame was grabbed.")
    for each in board.streams:
        if (age_s := each.frame_age_s) is not None:
            lines.append(f"tdrl_last_frame_age_seconds{_labels(each)} {age_s:.3f}")
    lines += _head("tdrl_step_seconds", "histogram", STAGES_TEXT)
    lines += [line for each in board.streams for line in _histograms(each)]
    return "\n".join(lines) + "\n"


def _outputs(board: Board) -> Iterable[str]:
    """Only of the outputs that there are."""
    counts = [(each, each.outputs()) for each in board.streams]
    for name, field, text in SHARED:
        for _, found in counts[:1]:
            if field in found:
                yield from _head(name, "counter", text)
                yield f"{name} {found[field]}"
    if any(LOST_FRAMES in found for _, found in counts):
        yield from _head(
            "tdrl_record_frames_lost_total",
            "counter",
            "Frames that recordings lack: disk too slow.",
        )
    for each, found in counts:
        if LOST_FRAMES in found:
            yield f"tdrl_record_frames_lost_total{_labels(each)} {found[LOST_FRAMES]}"


def _histograms(stream: StreamBoard) -> Iterable[str]:
    """One for each stage, with the same bounds."""
    bounds = [*map(str, TIME_BOUNDS_S), "+Inf"]
    for stage, times in stream.stages().items():
        for bound, count in zip(bounds, times.buckets, strict=True):
            yield f"tdrl_step_seconds_bucket{_labels(stream, stage=stage, le=bound)} {count}"
        yield f"tdrl_step_seconds_sum{_labels(stream, stage=stage)} {times.sum_s:.6f}"
        yield f"tdrl_step_seconds_count{_labels(stream, stage=stage)} {times.buckets[-1]}"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(stream: StreamBoard, **more: str) -> str:
    """Two streams may have one name, but not one number."""
    pairs = {"source": stream.name, "stream": str(stream.number)} | more
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in pairs.items()) + "}"


def escaped(value: str) -> str:
    r"""A label's value inside its quotes.

    Example:
        >>> escaped('say "hi"\n')
        'say \\"hi\\"\\n'
    """
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
