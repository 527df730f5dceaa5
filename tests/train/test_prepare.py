"""The command: its page, its cache, its folds, and how it ends."""

import base64
import errno
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from runtime.command import run_command
from runtime.preprocess import PictureRule
from tests.train.small_data import CLASSES, add, rename, rows_of, write, write_clean
from train import prepare_cache
from train.data.catalog import load_split
from train.data.check import survey
from train.data.clips import ClipRule
from train.data.decode import open_frames
from train.data.folds import read_folds
from train.data.frame_cache import CachedFrames, open_cached
from train.data.truth import Segment, write_truth
from train.prepare import default_out, main


@pytest.fixture(scope="module")
def clean_data(tmp_path_factory):
    return write_clean(tmp_path_factory.mktemp("clean") / "data")


@pytest.fixture
def data(clean_data, tmp_path):
    return shutil.copytree(clean_data, tmp_path / "data")


def run(data, out, *more):
    return main(["--data", str(data), "--out", str(out), "--workers", "0", *map(str, more)])


def refusal(capsys, *args):
    """The one line that the command ends with."""
    assert run_command(lambda: main(["--workers", "0", *map(str, args)])) == 1
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def decoded_jpeg(data):
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(int)


# ---- the page


def test_a_clean_data_set_gives_a_page_and_status_0(data, tmp_path, capsys):
    out = tmp_path / "page"
    assert run(data, out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "0 errors, 0 warnings, 0 notes"
    assert lines[-1] == f"page: {out}/index.html; next: make train DATA={data} RECIPE=own"
    assert sorted(path.name for path in out.iterdir()) == [
        *("clips.png", "index.html", "lengths.png", "prepare.json")
    ]
    found = json.loads((out / "prepare.json").read_text())
    assert found["splits"] == {"train": 40, "validation": 10}
    assert found["window_s"] == 0.5
    assert [one["label"] for one in found["classes"]] == list(CLASSES)
    assert found["findings"] == []


def test_the_page_is_whole_in_itself(data, tmp_path):
    run(data, tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<script" not in text
    sources = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert text.count("data:image/jpeg") == 4, "two clips of both classes"
    assert text.count("data:image/png") == 4, "two charts, light and dark"
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "This page contains frames of the data set" in text
    assert "Nothing was found." in text


def test_the_page_is_the_same_every_time(data, tmp_path):
    run(data, tmp_path / "one")
    run(data, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_sample_frames_are_what_the_model_sees(data, tmp_path):
    run(data, tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    strips = [
        decoded_jpeg(base64.b64decode(code))
        for code in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    ]
    assert {strip.shape for strip in strips} == {(112, 448, 3)}
    clips = load_split(data, "train", CLASSES).clips(
        PictureRule(height_px=112, width_px=112), ClipRule(4, 1.0, "segments")
    )
    seen = [np.hstack(list(clips[i][0].permute(0, 2, 3, 1).numpy())) for i in range(40)]
    for strip in strips:
        assert min(np.abs(strip - whole).mean() for whole in seen) < 12, "JPEG's error"
        assert max(np.abs(strip - whole).mean() for whole in seen) > 24, "and no other clip"


def test_names_are_escaped(data, tmp_path):
    label = "<script>alert('$x_$')</script> & co"
    rename(data, "wave", label)
    (data / "train" / "r0.mp4").rename(data / "train" / "<b>&.mp4")
    rename(data, "r0.mp4", "<b>&.mp4")
    add(data, ("<b>&.mp4", 1.0, 1.2, label))
    assert run(data, tmp_path / "page") == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<script" not in text
    assert "<b>&" not in text
    assert "&lt;script&gt;alert(&#x27;$x_$&#x27;)&lt;/script&gt; &amp; co" in text
    assert "&lt;b&gt;&amp;.mp4 from 1 s" in text


def test_letters_that_the_chart_cannot_draw_do_no_harm(data, tmp_path):
    rename(data, "wave", "手を振る")
    assert run(data, tmp_path / "page") == 0
    assert "手を振る" in (tmp_path / "page" / "index.html").read_text()


def test_unreadable_clips_give_status_1_and_a_list(data, tmp_path, capsys):
    good = (data / "train" / "r2.mp4").read_bytes()
    (data / "train" / "r2.mp4").write_bytes(b"no video")
    out = tmp_path / "page"
    assert run(data, out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"page: {out}/index.html; next: mend the errors above and run this again"
    assert lines[-2].startswith("1 error, ")
    assert any(line.startswith("error: 10 of 40 clips of train cannot be read") for line in lines)
    (broken,) = (out / "broken.txt").read_text().splitlines()
    assert "r2.mp4" in broken
    assert 'class="error"' in (out / "index.html").read_text()
    (data / "train" / "r2.mp4").write_bytes(good)
    assert run(data, out) == 0
    assert not (out / "broken.txt").exists(), "a list of an earlier look would mislead"


def test_data_in_arrays(tiny_data, tmp_path):
    run(tiny_data, tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    found = json.loads((tmp_path / "page" / "prepare.json").read_text())
    assert text.count("data:image/jpeg") == 2 * len(found["labels"])
    assert "32×32" in text


def test_a_data_set_without_a_readable_training_split_has_a_page(data, tmp_path):
    shutil.rmtree(data / "train")
    (data / "validation" / "v.mp4").write_bytes(b"no video")
    assert run(data, tmp_path / "page") == 1
    assert "no clips in" in (tmp_path / "page" / "index.html").read_text()


# ---- refusals


def test_wrong_options_are_refused(data, tmp_path, capsys):
    for args, message in (
        (("--out", data / "page"), "lies in the data folder"),
        (("--num-segments", 0), "--num-segments must be >= 1, got 0"),
        (("--folds", 1), "--folds must be >= 2, got 1"),
        (("--folds-out", "x.csv"), "--folds-out needs --folds K"),
        (("--short-side", 2), "--short-side must be >= 8, got 2"),
    ):
        given = (
            ("--data", data, *args)
            if "--out" in args
            else ("--data", data, "--out", tmp_path / "p", *args)
        )
        assert message in refusal(capsys, *given)
    assert not (tmp_path / "p").exists()
    assert "is no folder" in refusal(capsys, "--data", tmp_path / "none")


def test_where_the_page_goes(tmp_path):
    assert default_out(tmp_path / "my_data").parts[-3:] == ("artifacts", "prepare", "my_data")
    assert default_out(tmp_path / "kitchen.yaml").name == "kitchen"
    assert default_out(tmp_path / "hall" / "data.yaml").name == "hall"
    assert default_out(tmp_path / "v1.5").name == "v1.5"


# ---- cache


def test_the_cache_holds_what_the_recordings_hold(data, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert run(data, tmp_path / "page", "--cache", cache, "--short-side", 32) == 0
    out = capsys.readouterr().out
    assert "cache: 5 of 5 recordings are new, about " in out
    assert f"cache: {cache}, 5 recordings written, 0 were there" in out
    source = data / "train" / "r1.mp4"
    with open_cached(source, cache) as cached, open_frames(source) as reader:
        assert isinstance(cached, CachedFrames)
        assert np.array_equal(cached.times_s, reader.times_s)
        numbers = np.arange(0, 100, 9)
        pairs = zip(cached.frames(numbers), reader.frames(numbers), strict=True)
        assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 12, "JPEG's error"

    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert run(data, tmp_path / "page", "--cache", cache, "--short-side", 32) == 0
    assert f"cache: {cache}, 0 recordings written, 5 were there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_what_cannot_be_read_is_not_in_the_cache(data, tmp_path, capsys):
    (data / "train" / "r2.mp4").write_bytes(b"no video")
    assert run(data, tmp_path / "page", "--cache", tmp_path / "cache") == 1
    assert "4 recordings written" in capsys.readouterr().out


def test_the_estimate_is_near(data, tmp_path, capsys):
    cache = tmp_path / "cache"
    run(data, tmp_path / "page", "--cache", cache)
    size = sum(path.stat().st_size for path in cache.iterdir())
    seen = survey(data)
    about = prepare_cache.estimate_bytes(prepare_cache.sources_of(seen), 256)
    assert about == pytest.approx(size, rel=0.25)


def test_a_disk_that_is_too_small_is_seen_before(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare_cache, "_free_bytes", lambda cache: 1000)
    cache = tmp_path / "cache"
    line = refusal(capsys, "--data", data, "--out", tmp_path / "page", "--cache", cache)
    assert re.fullmatch(r"error: the cache needs about .* and .* has 1\.0 kB free; .*", line)
    assert not cache.exists()


def test_a_full_disk_is_one_line_and_no_half_file(data, tmp_path, capsys, monkeypatch):
    real, calls = cv2.imencode, []

    def encode(*args):
        calls.append(1)
        if len(calls) > 300:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr("train.data.frame_cache.cv2.imencode", encode)
    cache = tmp_path / "cache"
    line = refusal(capsys, "--data", data, "--out", tmp_path / "page", "--cache", cache)
    assert "is full after 2 of 5 recordings; free some space and run this again" in line
    names = [path.name for path in cache.iterdir()]
    assert len(names) == 2
    assert all(name.endswith(".frames") and not name.startswith(".") for name in names)
    monkeypatch.setattr("train.data.frame_cache.cv2.imencode", real)
    run(data, tmp_path / "page", "--cache", cache)
    assert "3 recordings written, 2 were there" in capsys.readouterr().out


def test_a_cache_among_class_folders_is_refused(tmp_path, capsys):
    root = tmp_path / "folders"
    for seed, label in enumerate(CLASSES * 2):
        (root / label).mkdir(parents=True, exist_ok=True)
        write(root / label / f"s{seed}_0001.mp4", seed, 10)
    args = ("--data", root, "--out", tmp_path / "page", "--cache", root / "cache")
    line = refusal(capsys, *args)
    assert "would be taken for a class; put it beside: " in line
    assert str(tmp_path / "folders.cache") in line


def test_arrays_need_no_cache_and_have_no_folds(tiny_data, tmp_path, capsys):
    args = ("--data", tiny_data, "--out", tmp_path / "page")
    only_train = tmp_path / "arrays"
    only_train.mkdir()
    shutil.copytree(tiny_data / "train", only_train / "train")
    shutil.copytree(tiny_data / "train", only_train / "validation")
    shutil.copy(tiny_data / "labels.txt", only_train)
    args = ("--data", only_train, "--out", tmp_path / "page")
    assert "these data are arrays" in refusal(capsys, *args, "--cache", tmp_path / "cache")
    assert "clips in arrays cannot be folded" in refusal(capsys, *args, "--folds", 2)


# ---- folds


def test_folds_are_written_and_can_be_trained_on(tmp_path, capsys):
    root = tmp_path / "recordings"
    root.mkdir()
    rows = []
    for seed in range(6):
        write(root / f"r{seed}.mp4", seed)
        rows += rows_of(f"r{seed}.mp4")
    rows.append(Segment("only_dropped.mp4", 0, 1, "noise"))
    write(root / "only_dropped.mp4", 20)
    write_truth(root / "segments.csv", rows)
    spec = tmp_path / "recordings.yaml"
    spec.write_text("drop: [noise]\n")
    folds = tmp_path / "folds.csv"
    assert run(spec, tmp_path / "page", "--folds", 3, "--folds-out", folds) == 0
    out = capsys.readouterr().out
    assert "class   fold 0   fold 1   fold 2\n" in out
    assert "wave        10       10       10\n" in out
    assert out.splitlines()[-1].startswith(
        f"page: {tmp_path}/page/index.html; next: folds: {folds}"
    )
    assert len(read_folds(folds, root)) >= 6
    spec.write_text(f"drop: [noise]\nfolds: {folds}\nfold: 1\n")
    validation = load_split(spec, "validation", ("point", "wave"))
    assert len({segment.path for segment in validation.segments}) == 2
    assert run(spec, tmp_path / "page") == 0


def test_too_few_recordings_for_the_folds(data, tmp_path, capsys):
    args = ("--data", data, "--out", tmp_path / "page", "--folds", 9)
    assert "5 recordings are too few for 9 folds" in refusal(capsys, *args)
