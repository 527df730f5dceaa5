"""The check of what few own clips are enough for: its clips and its page."""

import av
import pytest

from train.data.catalog import detect_format, load_split, read_labels
from train.own_data_check import CLASSES, HELD_OUT_PER_CLASS, Outcome, make_clips, page_of


def test_the_clips_are_folders_of_videos_that_training_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("train.own_data_check.HELD_OUT_PER_CLASS", 1)
    data = tmp_path / "data"
    (data / "train" / "gone").mkdir(parents=True)  # of an earlier run
    make_clips(data, 2)
    assert detect_format(data) == "folders"
    labels = read_labels(data)
    assert labels == CLASSES
    train, validation = (load_split(data, name, labels) for name in ("train", "validation"))
    assert sorted(train.clip_labels) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(validation.clip_labels) == [0, 1, 2, 3, 4]
    assert not train.skipped
    paths = [segment.path for segment in (*train.segments, *validation.segments)]
    assert len({path.read_bytes() for path in paths}) == 15, "no clip is there twice"
    with av.open(str(paths[0])) as video:
        assert video.streams.video[0].codec_context.name == "h264"


def test_no_clips_are_refused_before_anything_is_removed(tmp_path):
    (tmp_path / "mine.mp4").touch()
    with pytest.raises(ValueError, match="clips must be >= 1, got 0"):
        make_clips(tmp_path, 0)
    assert (tmp_path / "mine.mp4").exists()


def test_the_page_says_what_was_measured():
    outcome = Outcome(
        clips_per_class=20,
        held_out=HELD_OUT_PER_CLASS * len(CLASSES),
        top1=0.875,
        interval=(0.8, 0.9375),
        train_s=90.0,
    )
    lines = page_of(outcome, []).splitlines()
    assert lines[0] == "# Own data: what a few clips are enough for"
    assert "| 20 | 100 | 87.5% (80.0% to 93.8%) | 1.5 min |" in lines
    assert any(line.startswith("Written by") and "`own`: Efficient" in line for line in lines)
    changed = page_of(outcome, ["epochs=2", "seed=1"])
    assert "Recipe `own`, changed: epochs=2, seed=1: EfficientNet-Lite0" in changed
