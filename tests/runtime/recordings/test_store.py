from __future__ import annotations

import json
import logging
import shutil
import stat
import subprocess
import sys

import pytest

from runtime.errors import SourceError
from runtime.recordings.manifest import RECORDING_JSON, Manifest, RunFacts, read_manifest
from runtime.recordings.store import RecordingStore, StoreCounts
from tests.full_disk import full_disk

FACTS = RunFacts(
    bundle="mini", bundle_sha256="0" * 64, window_s=1.0, phases=1, temperature=1.0, policy={}
)


def manifest(**changes):
    fields = {
        "recording_id": "0" * 32,
        "source": "camera 0",
        "is_live": True,
        "utc": "2026-11-25T01:17:48.123+00:00",
        "label": "sitting",
        "start_s": 1.0,
        "end_s": 2.0,
        "peak_prob": 0.9,
        "run": FACTS,
        "times_s": (0.1, 0.7 / 3),
        "decisions": ({"label": "sitting", "prob": 0.9},),
    }
    return Manifest(**{**fields, **changes})


def record(store, size=1000, frames=2, label="sitting"):
    opened = store.begin(label)
    for _ in range(frames):
        opened.add(bytes(size))
    opened.finish(manifest(label=label))


def names(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def hidden(root):
    return sorted(path.name for path in root.iterdir() if path.name.startswith("."))


def test_a_recording_appears_when_it_is_whole(tmp_path):
    root = tmp_path / "new" / "recordings"
    with RecordingStore(root, max_bytes=10**6) as store:
        opened = store.begin("sitting")
        assert opened.add(b"one")
        assert opened.add(b"two")
        assert names(root) == []
        opened.finish(manifest())
        (name,) = names(root)
        assert store.counts == StoreCounts(written=1)
    assert name.endswith("Z-sitting")
    files = sorted((root / name).iterdir())
    assert [path.name for path in files] == ["000000.jpg", "000001.jpg", RECORDING_JSON]
    assert [path.read_bytes() for path in files[:2]] == [b"one", b"two"]
    assert read_manifest(root / name) == manifest(), "times are exact to the last bit"
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 3
    for folder in (root, root / name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert hidden(root) == [".lock"]


def test_any_label_is_a_name(tmp_path):
    with RecordingStore(tmp_path, max_bytes=10**6) as store:
        for label in ("../../x", "Opening [something] 日本", "..", "a" * 300):
            record(store, label=label)
    assert len(names(tmp_path)) == 4
    assert {read_manifest(tmp_path / name).label for name in names(tmp_path)} >= {"../../x", ".."}


def test_the_oldest_make_room(tmp_path):
    with RecordingStore(tmp_path, max_bytes=12_000) as store:
        for number in range(6):
            record(store, label=f"label{number}")
        assert store.counts == StoreCounts(written=6, removed=2)
    assert [name[-6:] for name in names(tmp_path)] == ["label2", "label3", "label4", "label5"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "film.mp4").write_bytes(bytes(10**6))
    shutil.copytree(tmp_path / names(tmp_path)[1], tmp_path / "my copy")
    with RecordingStore(tmp_path, max_bytes=12_000) as store:  # another run removes them too
        record(store, label="label6")
        assert store.counts == StoreCounts(written=1, removed=1)
    assert [name[-6:] for name in names(tmp_path)[:4]] == ["label3", "label4", "label5", "label6"]
    assert names(tmp_path)[4:] == ["mine", "my copy"], "what others put there is not touched"


def test_a_single_one_fills_a_quarter_at_most(tmp_path):
    with RecordingStore(tmp_path, max_bytes=12_000) as store:
        record(store)
        opened = store.begin("long")
        assert [opened.add(bytes(1000)) for _ in range(4)] == [True, True, True, False]
        opened.finish(manifest(label="long"))
        assert store.counts == StoreCounts(written=2)
        (path,) = tmp_path.glob("*-long")
        assert len(list(path.glob("*.jpg"))) == 3


def test_what_a_crash_left_is_cleared(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from runtime.recordings.store import *; "
        "RecordingStore(Path(sys.argv[1]), max_bytes=10**6).begin('x').add(b'1'); os._exit(9)"
    )
    (tmp_path / ".mine.part").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(hidden(tmp_path)) == 3
    RecordingStore(tmp_path, max_bytes=10**6).close()
    assert hidden(tmp_path) == [".lock", ".mine.part"]
    assert names(tmp_path) == []


def test_two_runs_never_write_one_folder(tmp_path):
    told = "is written by another run; give each its own --record"
    with RecordingStore(tmp_path, max_bytes=10**6), pytest.raises(OSError, match=told):
        RecordingStore(tmp_path, max_bytes=10**6)
    RecordingStore(tmp_path, max_bytes=10**6).close()
    with pytest.raises(ValueError, match="max_bytes must be > 0"):
        RecordingStore(tmp_path, max_bytes=0)


@pytest.mark.parametrize("name", ["/proc/recordings", "file"])
def test_a_place_that_cannot_be_written_is_named_with_its_option(tmp_path, name):
    (tmp_path / "file").touch()
    root = tmp_path / name
    reason = "(No such file or directory|Not a directory)"
    told = f"^--record {root} cannot be written: {reason}; give it a folder that you may write$"
    with pytest.raises(OSError, match=told):
        RecordingStore(root, max_bytes=10**6)


def test_a_full_disk_is_told_once_and_got_over(tmp_path, caplog):
    with RecordingStore(tmp_path, max_bytes=10**8) as store, caplog.at_level(logging.INFO):
        with full_disk(1000):
            for _ in range(3):
                opened = store.begin("x")
                with pytest.raises(OSError, match="too large") as caught:
                    opened.add(bytes(5000))
                opened.drop()
                store.lose(caught.value.strerror or "")
        assert (hidden(tmp_path), names(tmp_path)) == ([".lock"], [])
        record(store)
        assert store.counts == StoreCounts(written=1, lost=3)
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2
    assert "no recording can be written: File too large; they are lost until it can" in said[0]
    assert said[1].endswith("written again, 3 recordings were lost")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is of another version"),
        (json.dumps({**manifest().to_json(), "schema_version": 2}), "is of another version"),
        (json.dumps({**manifest().to_json(), "times_s": []}), "times_s must be finite"),
        (json.dumps({**manifest().to_json(), "run": {}}), "is damaged: KeyError"),
        (json.dumps({**manifest().to_json(), "decisions": 3}), "is damaged: TypeError"),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, text, message):
    (tmp_path / RECORDING_JSON).write_text(text)
    with pytest.raises(SourceError, match=message):
        read_manifest(tmp_path)


def test_a_folder_of_pictures_is_no_recording(tmp_path):
    with pytest.raises(SourceError, match="is no recording of --record: recording.json cannot be"):
        read_manifest(tmp_path)
