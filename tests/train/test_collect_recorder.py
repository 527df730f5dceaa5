from dataclasses import replace

import numpy as np
import pytest

from runtime.sources.frame import Frame
from train.collect_recorder import Discarded, Recorder, Take

LABELS = ("rest", "wave")


def recorder(seconds=1.0, countdown_s=3.0):
    return Recorder(LABELS, {"rest": 2, "wave": 0}, seconds=seconds, countdown_s=countdown_s)


def frame(time_s, connection=0, height=8):
    picture = np.full((height, 8, 3), round(time_s * 10) % 256, np.uint8)
    return Frame(picture, 0, time_s, 0, connection)


def run(made, times_s, connection=0):
    """Show frames; the events that came."""
    events = [made.see(frame(time_s, connection)) for time_s in times_s]
    return [event for event in events if event is not None]


def at(fps, start_s, stop_s):
    return [k / fps for k in range(round(start_s * fps), round(stop_s * fps))]


def recording(fps=20, seconds=1.0):
    """A recorder in the middle of a recording, at 0.5 s of stream time."""
    made = recorder(seconds, countdown_s=0)
    made.press("record")
    assert run(made, at(fps, 0, 0.5)) == []
    assert made.state == "recording"
    return made


@pytest.mark.parametrize("fps", [8, 15, 25, 30, 60])
def test_a_take_is_as_long_as_asked_for_and_begins_when_the_countdown_ends(fps):
    made = recorder()
    run(made, at(fps, 0, 1))
    made.press("record")
    (take,) = run(made, at(fps, 1, 8))
    assert isinstance(take, Take)
    assert len(take.pictures) == len(take.times_s) == fps
    assert take.times_s[0] == 4.0
    assert take.fps == fps
    assert take.label == "rest"
    assert made.state == "ready"


def test_no_frame_after_the_last_one_is_waited_for():
    made = recorder(countdown_s=0)
    made.press("record")
    *others, last = at(25, 0, 1)
    assert run(made, others) == []
    assert isinstance(made.see(frame(last)), Take)


def test_times_rounded_to_milliseconds_cost_no_frame():
    made = recorder(seconds=2.0, countdown_s=3.0)
    made.press("record")
    (take,) = run(made, [round(k / 30, 3) for k in range(200)])
    assert len(take.pictures) == 60
    assert float(take.fps) == pytest.approx(30, abs=0.02)


def test_the_rate_is_measured_over_uneven_frames():
    made = recorder(seconds=1.0, countdown_s=0)
    made.press("record")
    gaps = np.tile([0.05, 0.1, 0.06], 20)
    (take,) = run(made, np.cumsum(gaps).tolist())
    assert float(take.fps) == pytest.approx(1 / 0.07, rel=0.05)
    assert take.times_s[-1] - take.times_s[0] == pytest.approx(
        (len(take.times_s) - 1) / float(take.fps), rel=1e-3
    )


def test_the_countdown_counts_down_and_the_bar_fills():
    made = recorder(seconds=2.0)
    run(made, [0.0])
    made.press("record")
    shown = []
    for time_s in at(4, 0.25, 6.25):
        made.see(frame(time_s))
        shown.append((made.state, made.view().left, made.view().share))
    counts = [left for state, left, _ in shown if state == "countdown"]
    assert counts == [3] * 4 + [2] * 4 + [1] * 4
    shares = [share for state, _, share in shown if state == "recording"]
    assert shares == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75]


def test_a_long_save_does_not_shorten_the_next_countdown():
    made = recorder()
    run(made, [0.0])
    made.press("record")
    run(made, [2.9])  # the first frame after two seconds of writing
    assert (made.state, made.view().left) == ("countdown", 3)


def test_keys_choose_the_class_around_the_end():
    made = recorder()
    assert made.label == "rest"
    assert [made.press(key) or made.label for key in ("next", "next", "previous")] == [
        "wave", "rest", "wave",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["next", "previous", "record", "review"])
def test_keys_do_not_disturb_a_recording(key):
    made = recording()
    assert made.press(key) is None
    (take,) = run(made, at(20, 0.5, 1))
    assert (take.label, len(take.pictures)) == ("rest", 20)


def test_delete_throws_a_running_recording_away_and_no_clip():
    made = recording()
    assert made.press("delete") is None
    assert made.state == "ready"
    assert run(made, at(20, 0.5, 2)) == []
    assert made.press("delete") == "delete"


def test_requests_go_to_the_caller():
    made = recorder()
    assert [made.press(key) for key in ("review", "delete", "quit")] == [
        "review", "delete", "quit",
    ]  # fmt: skip


def test_counts_follow_what_was_written_and_deleted():
    made = recorder()
    made.count("wave", 1)
    made.count("rest", -1)
    assert made.view().counts == (1, 1)


def test_review_loops_the_clip_at_its_own_pace():
    clip = [np.full((4, 4, 3), k, np.uint8) for k in range(4)]
    made = recorder()
    run(made, [10.0])
    made.replay(clip, [0.0, 0.5, 1.0, 1.5])
    shown = []
    for time_s in at(4, 11, 14):
        made.see(frame(time_s))
        shown.append(int(made.picture()[0, 0, 0]))
    assert shown == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1]
    assert made.press("review") is None
    assert made.state == "ready"
    assert made.picture().shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (frame(0.5, connection=1), "the camera was lost and is back"),
        (frame(0.1), "the camera's time jumped back by 0.35 s"),
        (frame(0.5, height=10), "the camera changed its picture size"),
        (frame(1.2), "the camera stalled for 0.8 s"),
    ],
)
def test_a_fault_throws_the_half_clip_away_and_the_next_one_is_whole(later, reason):
    made = recording()
    event = made.see(later)
    assert isinstance(event, Discarded)
    assert event.reason == reason
    assert not event.is_lasting
    assert reason in made.view().message
    made.press("record")
    (take,) = [
        event
        for time_s in at(20, 0.05, 2)
        if (event := made.see(replace(later, stream_time_s=later.stream_time_s + time_s)))
    ]
    assert len(take.pictures) == 20
    assert {picture.shape for picture in take.pictures} == {later.image_rgb.shape}


def test_a_lost_camera_ends_the_countdown():
    made = recorder()
    made.press("record")
    run(made, at(10, 0, 1))
    (event,) = run(made, [0.2], connection=1)
    assert isinstance(event, Discarded)
    assert made.state == "ready"


def test_a_slow_camera_is_no_stall_but_its_clips_are_too_short():
    made = recorder(seconds=2.0, countdown_s=3.0)
    run(made, at(2, 0, 2))
    made.press("record")
    events = run(made, at(2, 2, 8))
    assert [event.reason for event in events] == [
        "the clip has 4 frames in 2 s, at least 8 are needed; take longer --seconds or a faster "
        "camera mode"
    ]
    assert events[0].is_lasting


def test_a_clip_that_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("train.collect_recorder.MAX_CLIP_BYTES", 10 * 8 * 8 * 3)
    made = recorder(countdown_s=0)
    made.press("record")
    (event,) = run(made, at(20, 0, 0.6))
    assert "11 frames of 8×8 are more than" in event.reason
    assert event.is_lasting


@pytest.mark.parametrize(
    ("seconds", "countdown_s", "message"),
    [
        (0, 3, "seconds must be > 0, got 0"),
        (float("nan"), 3, "seconds must be > 0, got nan"),
        (2, -1, "countdown_s must be >= 0, got -1"),
    ],
)
def test_wrong_lengths_are_refused(seconds, countdown_s, message):
    with pytest.raises(ValueError, match=message):
        recorder(seconds, countdown_s)


def test_there_is_no_picture_before_the_first_frame():
    with pytest.raises(ValueError, match="no frame to show"):
        recorder().picture()
