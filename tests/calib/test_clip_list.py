from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.clip_list import CalibrationClip, read_clip_list, write_clip_list
from runtime.errors import DataError

CLIP = CalibrationClip("clips/a b.mp4", 0.25, 2.5, "slide left", 20.0)
TIMES = st.floats(0, 1e5, allow_nan=False)


@st.composite
def clips(draw):
    start_s, length_s = draw(TIMES), draw(st.floats(0.01, 100))
    text = st.text(min_size=1)
    return CalibrationClip(draw(text), start_s, start_s + length_s, draw(text), draw(TIMES))


@given(st.lists(clips(), min_size=1, max_size=5))
def test_round_trip(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("list") / "clips.jsonl"
    write_clip_list(path, wanted)
    assert read_clip_list(path) == wanted
    assert len(path.read_bytes().splitlines()) == len(wanted)


@pytest.mark.parametrize(
    "name", ["a\u2028b.mp4", "a\x85b.mp4", "zeile\n2.mp4", os.fsdecode(b"\xff")]
)
def test_file_names_that_no_one_expects(tmp_path, name):
    clip = CalibrationClip(name, 0, 1, "x", 0)
    write_clip_list(tmp_path / "clips.jsonl", [clip])
    assert read_clip_list(tmp_path / "clips.jsonl") == [clip]


def test_the_fields_are_those_of_the_design(tmp_path):
    write_clip_list(tmp_path / "clips.jsonl", [CLIP])
    (line,) = (tmp_path / "clips.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "path": "clips/a b.mp4",
        "start_s": 0.25,
        "end_s": 2.5,
        "label": "slide left",
        "fps": 20.0,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no json", "Expecting value"),
        ("", "Expecting value"),
        ("[1, 2]", "must be a mapping"),
        ('{"path": "a.mp4"}', "missing 4 required"),
        ('{"path": "a", "start_s": 0, "end_s": 1, "label": "x", "fps": 0, "more": 1}', "'more'"),
        ('{"path": "a", "start_s": 2, "end_s": 1, "label": "x", "fps": 0}', r"got 2\.\.1"),
        ('{"path": "a", "start_s": -1, "end_s": 1, "label": "x", "fps": 0}', r"got -1\.\.1"),
        ('{"path": "a", "start_s": NaN, "end_s": 1, "label": "x", "fps": 0}', r"got nan\.\.1"),
        ('{"path": "a", "start_s": "0", "end_s": 1, "label": "x", "fps": 0}', "'<='"),
        ('{"path": 5, "start_s": 0, "end_s": 1, "label": "x", "fps": 0}', "must be text, got 5"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    path = tmp_path / "clips.jsonl"
    write_clip_list(path, [CLIP, CLIP])
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"clips.jsonl line 3 is no calibration clip: .*{reason}"):
        read_clip_list(path)


def test_an_empty_list(tmp_path):
    path = tmp_path / "clips.jsonl"
    write_clip_list(path, [])
    with pytest.raises(DataError, match=r"clips\.jsonl lists no clips"):
        read_clip_list(path)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(DataError, match="none.jsonl cannot be read: .*export writes it"):
        read_clip_list(tmp_path / "none.jsonl")
    (tmp_path / "clips.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_clip_list(tmp_path / "clips.jsonl")


def test_a_failed_write_keeps_the_old_list(tmp_path):
    path = tmp_path / "clips.jsonl"
    write_clip_list(path, [CLIP])

    def failing():
        yield CLIP
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_clip_list(path, failing())
    assert read_clip_list(path) == [CLIP]
    assert list(tmp_path.iterdir()) == [Path(path)]
