import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.command import run_command
from runtime.errors import DataError, OutputError, SourceError, SourceLostError
from runtime.sources.file import FileSource
from runtime.sources.frame import Frame
from runtime.sources.memory import MemorySource
from runtime.window import ESCAPE, Window
from tests.videos import drifting_pattern, write_video
from train.collect import CollectOptions, collect, last_line, main
from train.collect_folder import ClipFolder, count_clips, open_folder
from train.collect_recorder import Recorder
from train.collect_run import CollectRun
from train.data.catalog import load_split, read_labels
from train.data.video_file import read_video

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("wave", "rest")
FPS = 25


class ScriptedWindow:
    """Presses keys at the pictures with these numbers, as a user would; keeps what it was shown."""

    def __init__(self, keys):
        self._keys = dict(keys)
        self.shown = []
        self.is_open = False

    def key_after(self, image_rgb):
        assert self.is_open
        self.shown.append(image_rgb)
        key = self._keys.get(len(self.shown) - 1)
        if callable(key):
            return key()
        return ord(key) if isinstance(key, str) else key

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *exc_info):
        self.is_open = False


@pytest.fixture(scope="session")
def camera(tmp_path_factory):
    """A file that stands in for a camera: 25 s at 25 fps, every picture another one."""
    path = tmp_path_factory.mktemp("camera") / "camera.mp4"
    return str(write_video(path, drifting_pattern(625), fps=FPS))


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return str(path)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "my data"


def clips_of(data):
    return sorted(str(path.relative_to(data)) for path in data.rglob("*.mp4"))


def record(camera, data, *args):
    return main(
        ["--camera", camera, "--out", str(data), "--headless", "--countdown", "1", *args]
    )  # fmt: skip


def windowed(source, root, keys, *, seconds=1.0, countdown_s=1.0):
    """A run with a scripted window, on a source that does not wait for real time."""
    folder = ClipFolder(root, LABELS, "s")
    root.mkdir(exist_ok=True)
    folder.create()
    counts = count_clips(root, LABELS)
    recorder = Recorder(LABELS, counts, seconds=seconds, countdown_s=countdown_s)
    run = CollectRun(folder, recorder, source)
    with ScriptedWindow(keys) as window:
        run.by_keys(window, [])
    return window, recorder


def test_headless_records_every_class_and_says_what_is_there(camera, data, labels, capsys):
    assert record(camera, data, "--labels", labels, "--clips", "2", "--session", "mon") == 0
    assert clips_of(data) == [
        "rest/mon_0001.mp4", "rest/mon_0002.mp4", "wave/mon_0001.mp4", "wave/mon_0002.mp4",
    ]  # fmt: skip
    assert (data / "labels.txt").read_text() == "wave\nrest\n"
    *spoken, last = capsys.readouterr().out.splitlines()
    assert spoken[0] == f"wave 1/2: 1 REC saved {data}/wave/mon_0001.mp4 (50 frames, 25.0 fps)"
    assert [line.split(":")[0] for line in spoken] == [
        "wave 1/2",
        "wave 2/2",
        "rest 1/2",
        "rest 2/2",
    ]
    assert last.startswith(f"{data}: wave 2, rest 2; one session only: ")
    assert "clip by clip" in last
    assert "record a second session" in last
    assert last.endswith(
        f"next: python -m train.prepare --data '{data}', then make train DATA='{data}' RECIPE=own"
    )


def test_clips_hold_exactly_the_frames_after_the_countdown_with_their_times(camera, data, labels):
    record(camera, data, "--labels", labels, "--clips", "1", "--session", "mon", "--seconds", "1.4")
    pictures, times_s = read_video(data / "wave" / "mon_0001.mp4")
    with FileSource(Path(camera)) as source:
        frames = list(source)
    # the countdown begins with the first frame
    assert pictures.shape == (35, 64, 96, 3)
    assert np.allclose(times_s, np.arange(35) / FPS, atol=1e-3)
    filmed = np.stack([frame.image_rgb for frame in frames[25:60]]).astype(int)
    nearest = [
        np.abs(filmed - picture).mean((1, 2, 3)).argmin() for picture in pictures.astype(int)
    ]
    assert nearest == list(range(35))


def test_the_same_file_gives_the_same_clips(camera, data, labels, tmp_path):
    """Pictures to a level or two: in a process that did much else, bytes were seen to differ."""
    for out in (data, tmp_path / "again"):
        record(camera, out, "--labels", labels, "--clips", "1", "--session", "mon")
    assert clips_of(data) == clips_of(tmp_path / "again")
    for name in clips_of(data):
        (pictures, times_s), (again, times_again_s) = (
            read_video(folder / name) for folder in (data, tmp_path / "again")
        )
        assert np.array_equal(times_s, times_again_s)
        distance = np.abs(pictures.astype(int) - again).mean((1, 2, 3))
        neighbour = np.abs(pictures[1:].astype(int) - pictures[:-1]).mean((1, 2, 3))
        assert distance.max() < 0.5 * neighbour.min()


def test_two_sessions_train_and_validate_apart(camera, data, labels, capsys):
    record(camera, data, "--labels", labels, "--clips", "2", "--session", "mon")
    capsys.readouterr()
    record(camera, data, "--clips", "2", "--session", "tue")
    last = capsys.readouterr().out.splitlines()[-1]
    assert "wave 4, rest 4; 2 sessions: whole sessions will validate" in last
    assert read_labels(data) == LABELS
    parts = [load_split(data, name, LABELS) for name in ("train", "validation")]
    sessions = [{one.group for one in part.segments} for part in parts]
    assert sorted(map(len, sessions)) == [1, 1]
    assert sessions[0] != sessions[1]
    assert [len(part.segments) for part in parts] == [4, 4]


def test_a_session_is_called_like_date_and_time(camera, data, labels):
    record(camera, data, "--labels", labels, "--clips", "1", "--seconds", "0.5")
    assert all(re.fullmatch(r"\w+/20\d{6}-\d{6}_0001\.mp4", name) for name in clips_of(data))


def test_clips_go_into_my_data_where_nothing_is_said(camera, labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--camera", camera, "--labels", labels, "--headless", "--countdown", "1"]
    assert main([*argv, "--clips", "1", "--session", "mon"]) == 0
    assert clips_of(tmp_path / "my_data") == ["rest/mon_0001.mp4", "wave/mon_0001.mp4"]


def test_delete_last_deletes_one_clip_after_naming_it(camera, data, labels, capsys):
    record(camera, data, "--labels", labels, "--clips", "1", "--session", "mon")
    for gone, left in (("rest", "wave 1, rest 0"), ("wave", "wave 0, rest 0")):
        capsys.readouterr()
        assert main(["--out", str(data), "--delete-last"]) == 0
        first, last = capsys.readouterr().out.splitlines()
        assert first == f"deleting {data}/{gone}/mon_0001.mp4"
        assert left in last
    assert clips_of(data) == []
    assert run_command(lambda: main(["--out", str(data), "--delete-last"])) == 1
    assert "holds no clip that this command wrote" in capsys.readouterr().err


def test_a_source_that_ends_too_soon_is_an_error_and_its_clips_are_kept(
    camera, data, labels, capsys
):
    with pytest.raises(SourceLostError, match=r"ended after 7 of 10 clips; .*thrown away"):
        record(camera, data, "--labels", labels, "--clips", "5", "--seconds", "2.3")
    assert count_clips(data, LABELS) == {"wave": 5, "rest": 2}
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{data}: wave 5, rest 2; ")


def test_a_camera_that_dies_while_recording_leaves_no_half_clip(tmp_path, data, labels, capsys):
    whole = write_video(tmp_path / "whole.mp4", drifting_pattern(200), front_header=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 8 // 10])
    status = run_command(
        lambda: record(str(cut), data, "--labels", labels, "--clips", "1", "--session", "mon")
    )
    assert status == 1
    assert clips_of(data) == ["wave/mon_0001.mp4"]
    assert [path for path in data.rglob("*") if ".part" in path.name] == []
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "cut.mp4 is cut off" in err
    assert "the clip that was being recorded is thrown away" in err
    assert out.splitlines()[-2] == "rest 1/1: 1 REC stopped"
    assert out.splitlines()[-1].startswith(f"{data}: wave 1, rest 0; no clip yet of rest")


def test_a_camera_that_comes_back_costs_one_clip(data, capsys):
    pictures = drifting_pattern(200)
    frames = [
        Frame(picture, k, k / FPS + (0 if k < 40 else -1.0), 0, int(k >= 40))
        for k, picture in enumerate(pictures)
    ]
    folder = ClipFolder(data, LABELS, "s")
    data.mkdir()
    folder.create()
    recorder = Recorder(LABELS, count_clips(data, LABELS), seconds=1, countdown_s=1)
    CollectRun(folder, recorder, MemorySource(frames)).by_schedule(1, [])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "wave 1/1: 1 REC thrown away: the camera was lost and is back"
    assert out[1].startswith("wave 1/1: 1 REC saved")
    assert count_clips(data, LABELS) == {"wave": 1, "rest": 1}


def test_a_camera_that_fails_again_and_again_ends_the_schedule(data):
    times_s = np.cumsum(np.where(np.arange(400) % 30 == 29, 2.0, 1 / FPS))
    frames = [
        Frame(picture, k, float(time_s), 0)
        for k, (picture, time_s) in enumerate(zip(drifting_pattern(400), times_s, strict=True))
    ]
    folder = ClipFolder(data, LABELS, "s")
    data.mkdir()
    folder.create()
    recorder = Recorder(LABELS, count_clips(data, LABELS), seconds=3, countdown_s=0)
    with pytest.raises(SourceError, match=r"the camera stalled for 2\.0 s; clips so far are kept"):
        CollectRun(folder, recorder, MemorySource(frames)).by_schedule(1, [])
    assert clips_of(data) == []


def test_a_slow_camera_is_refused_at_its_first_clip(tmp_path, data, labels):
    slow = str(write_video(tmp_path / "slow.mp4", drifting_pattern(40), fps=2))
    with pytest.raises(SourceError, match=r"slow\.mp4: the clip has 4 frames in 2 s, at least 8"):
        record(slow, data, "--labels", labels)
    assert clips_of(data) == []


def test_a_full_disk_ends_the_run_with_one_line(camera, data, labels, capsys, monkeypatch):
    resource = pytest.importorskip("resource")
    write = ClipFolder.write
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_on_a_full_disk(folder, take):
        # only the second clip meets the limit: pytest writes files too
        limit = soft if not clips_of(data) else 2000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            return write(folder, take)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(ClipFolder, "write", write_on_a_full_disk)
    assert run_command(lambda: record(camera, data, "--labels", labels, "--session", "mon")) == 1
    assert clips_of(data) == ["wave/mon_0001.mp4"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the clip was not written, earlier ones are kept" in err
    assert "File too large" in err


def test_ctrl_c_finishes_cleanly(camera, data, labels, capsys, monkeypatch):
    write = ClipFolder.write

    def write_and_be_interrupted(folder, take):
        signal.raise_signal(signal.SIGINT)
        return write(folder, take)

    monkeypatch.setattr(ClipFolder, "write", write_and_be_interrupted)
    assert record(camera, data, "--labels", labels, "--session", "mon") == 0
    assert clips_of(data) == ["wave/mon_0001.mp4"]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{data}: wave 1, rest 0; ")


def test_keys_record_review_delete_and_end(camera, data, capsys):
    keys = {
        0: " ",  # 25 frames of countdown, 25 of recording, one picture more while saving
        60: "n",
        61: " ",
        120: "r",
        160: "d",
        170: "n",
        171: " ",
        230: ESCAPE,
    }
    with FileSource(Path(camera)) as source:
        window, recorder = windowed(source, data, keys)
    assert len(window.shown) == 231
    assert clips_of(data) == ["wave/s_0001.mp4", "wave/s_0002.mp4"]
    assert recorder.view().counts == (2, 0)
    said = capsys.readouterr().out
    assert said.startswith("keys in the window:")
    assert said.splitlines()[-4:] == [
        f"saved {data}/rest/s_0001.mp4 (25 frames, 25.0 fps)",
        f"review of {data}/rest/s_0001.mp4",
        f"deleted {data}/rest/s_0001.mp4",
        f"saved {data}/wave/s_0002.mp4 (25 frames, 25.0 fps)",
    ]
    # what is replayed differs from what the camera sees, and comes round after a second
    assert (window.shown[130] == window.shown[155]).all()
    assert (window.shown[130] != window.shown[140]).any()


def test_delete_and_review_need_a_clip_of_this_run(camera, data):
    with FileSource(Path(camera)) as source:
        windowed(source, data, {0: " ", 60: "q"})
    with FileSource(Path(camera)) as source:
        window, recorder = windowed(source, data, {0: "d", 1: "r", 2: "x", 3: "q"})
    assert clips_of(data) == ["wave/s_0001.mp4"]
    assert recorder.view().message == "no clip of this run to review"


def test_ending_while_recording_throws_the_half_clip_away(camera, data):
    with FileSource(Path(camera)) as source:
        windowed(source, data, {0: " ", 40: "q"})
    assert clips_of(data) == []


def test_a_clip_that_someone_else_deleted_is_survived(camera, data):
    def gone():
        (data / "wave" / "s_0001.mp4").unlink()
        return ord("r")

    with FileSource(Path(camera)) as source:
        _, recorder = windowed(source, data, {0: " ", 60: gone, 61: "d", 62: "q"})
    assert recorder.view().message == f"{data}/wave/s_0001.mp4 is gone already"
    assert recorder.view().counts == (0, 0)


@pytest.mark.parametrize("end", ["q", ESCAPE, lambda: signal.raise_signal(signal.SIGINT)])
def test_the_command_opens_a_window_and_ends_with_what_is_there(
    tmp_path, data, labels, capsys, end
):
    fast = str(write_video(tmp_path / "fast.mp4", drifting_pattern(100), fps=100))
    options = CollectOptions(
        out=data, camera=fast, labels=Path(labels), session="s", seconds=0.2, countdown_s=0
    )
    window = ScriptedWindow({0: " ", 40: end})
    assert collect(options, open_window=lambda title: window) == 0
    assert not window.is_open
    assert clips_of(data) == ["wave/s_0001.mp4"]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{data}: wave 1, rest 0; ")


def test_a_signal_before_the_first_clip_is_its_status(tmp_path, data, labels):
    fast = str(write_video(tmp_path / "fast.mp4", drifting_pattern(100), fps=100))
    options = CollectOptions(out=data, camera=fast, labels=Path(labels))
    window = ScriptedWindow({3: lambda: signal.raise_signal(signal.SIGTERM)})
    assert collect(options, open_window=lambda title: window) == 128 + signal.SIGTERM


def test_a_window_whose_camera_ends_is_an_error(tmp_path, data, labels):
    fast = str(write_video(tmp_path / "fast.mp4", drifting_pattern(20), fps=100))
    options = CollectOptions(out=data, camera=fast, labels=Path(labels))
    with pytest.raises(SourceLostError, match=r"fast\.mp4 ended; clips so far are kept"):
        collect(options, open_window=lambda title: ScriptedWindow({}))


@pytest.mark.parametrize(
    ("pressed", "visible", "key", "stays"),
    [
        (-1, 1.0, None, True),
        (ord("n"), 1.0, ord("n"), True),
        (ord("d") | 0x100000, 1.0, ord("d"), True),  # GTK adds the state of Num Lock
        (ord("q"), 1.0, ord("q"), False),
        (-1, 0.0, ESCAPE, False),
    ],
)
def test_a_window_gives_its_keys(monkeypatch, pressed, visible, key, stays):
    monkeypatch.setenv("DISPLAY", ":0")
    answers = {"namedWindow": None, "imshow": None, "destroyAllWindows": None}
    answers |= {"waitKey": pressed, "getWindowProperty": visible}
    for name, answer in answers.items():
        monkeypatch.setattr(f"cv2.{name}", lambda *args, answer=answer: answer)
    with Window("camera") as window:
        assert window.key_after(drifting_pattern(1)[0]) == key
        assert window.show(drifting_pattern(1)[0]) is stays


def test_without_a_display_the_way_out_is_named(camera, data, labels, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OutputError, match=r"no display here .*pass --headless to be led"):
        main(["--camera", camera, "--out", str(data), "--labels", labels])
    assert not data.exists()


def test_a_camera_that_is_not_there_is_named_and_nothing_is_written(data, labels):
    with pytest.raises(SourceError, match="camera 99 cannot be opened: no such camera"):
        record("99", data, "--labels", labels)
    assert not data.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seconds", "0"], r"--seconds must be in \(0, 60\], got 0"),
        (["--seconds", "nan"], r"--seconds must be in \(0, 60\], got nan"),
        (["--seconds", "100"], r"--seconds must be in \(0, 60\], got 100"),
        (["--countdown", "-1"], r"--countdown must be in \[0, 60\], got -1"),
        (["--clips", "0"], "--clips must be >= 1, got 0"),
        (["--session", "a/b"], "--session must be letters"),
    ],
)
def test_wrong_arguments_are_refused_before_the_camera_opens(data, labels, args, message):
    with pytest.raises(ValueError, match=message):
        record("99", data, "--labels", labels, *args)
    assert not data.exists()


def test_classes_are_checked_before_the_camera_opens(data, labels):
    with pytest.raises(DataError, match="give --labels"):
        record("99", data)
    Path(labels).write_text("wave\n\nrest\n")
    with pytest.raises(DataError, match=r"labels\.txt line 2 is blank"):
        record("99", data, "--labels", labels)


def test_the_last_line_can_be_pasted(tmp_path):
    for label in LABELS:
        (tmp_path / label).mkdir()
    folder = open_folder(tmp_path, None, "s")
    line = last_line(folder.root, folder.labels)
    assert line.startswith(f"{tmp_path}: rest 0, wave 0; no clip yet of rest, wave; next: ")


def test_help_names_the_keys_and_shows_examples():
    done = subprocess.run(
        [sys.executable, "-m", "train.collect", "--help"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for text in ("space", "review", "delete the last clip", "--delete-last", "examples:"):
        assert text in done.stdout
