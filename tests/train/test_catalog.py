import numpy as np
import pytest

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from train.data.arrow_of_time import LABELS
from train.data.catalog import (
    Split,
    calibration_part,
    detect_format,
    has_tape,
    load_split,
    load_tape,
    load_tapes,
    read_labels,
)
from train.data.clips import ArrayClipSet, ClipRule, VideoClipSet
from train.data.truth import Segment, write_truth

SEGMENTS = ClipRule(num_segments=4, spacing_s=0.5, sampling="segments")
SMALL = PictureRule(height_px=32, width_px=32)
NAMES = ("wave", "point", "rest")


@pytest.fixture
def data(tmp_path):
    """A data folder of three classes with empty files for videos."""
    (tmp_path / "labels.txt").write_text("wave\n\n point \nrest\n", encoding="utf-8")
    for split in ("train", "tape"):
        (tmp_path / split).mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "train" / name).touch()
        (tmp_path / "tape" / name).touch()
    return tmp_path


def list_segments(data, *rows, split="train", name="segments.csv"):
    (data / split).mkdir(exist_ok=True)
    write_truth(data / split / name, [Segment(*row) for row in rows])


# ---- labels


def test_labels_are_read_in_the_order_of_the_logits(data):
    assert read_labels(data) == NAMES
    assert read_labels(data, exclude=["point"]) == ("wave", "rest")


def test_a_byte_order_mark_is_no_part_of_the_first_class(data):
    (data / "labels.txt").write_text("wave\nrest\n", encoding="utf-8-sig")
    assert read_labels(data) == ("wave", "rest")


@pytest.mark.parametrize("text", ["", "wave\n", "wave\nwave\n", "wave\nrest\nwave\n"])
def test_fewer_than_two_different_classes_are_refused(data, text):
    (data / "labels.txt").write_text(text)
    with pytest.raises(DataError, match="must list at least two different classes"):
        read_labels(data)


def test_missing_labels_and_unknown_exclusions_are_named(data):
    with pytest.raises(DataError, match="exclude names 'wawe', which .*labels.txt does not list"):
        read_labels(data, exclude=["wawe"])
    list_segments(data, ("a.mp4", 0, 1, "wave"))
    (data / "labels.txt").unlink()
    with pytest.raises(DataError, match=r"labels\.txt not found; it lists one class a line"):
        read_labels(data)


# ---- splits of videos


def test_segments_get_paths_times_and_class_numbers(data):
    rows = [("a.mp4", 0.5, 2.0, "rest"), ("b.mp4", 0, 1, "wave"), ("b.mp4", 2, 3, "point")]
    list_segments(data, *rows)
    split = load_split(data, "train", NAMES)
    assert split.arrays is None
    assert [s.path for s in split.segments] == [data / "train" / row[0] for row in rows]
    times = [(s.start_s, s.end_s, s.label) for s in split.segments]
    assert times == [(0.5, 2, 2), (0, 1, 0), (2, 3, 1)]
    assert [s.group for s in split.segments] == ["a.mp4", "b.mp4", "b.mp4"]
    assert split.lengths_s == [1.5, 1.0, 1.0]
    assert split.skipped == ()
    clips = split.clips(SMALL, SEGMENTS)
    assert isinstance(clips, VideoClipSet)
    assert len(clips) == 3


def test_clips_of_excluded_classes_are_left_out_and_classes_renumbered(data):
    list_segments(data, ("a.mp4", 0, 2, "rest"), ("b.mp4", 0, 1, "wave"))
    split = load_split(data, "train", ("rest",))
    assert [(s.path.name, s.label) for s in split.segments] == [("a.mp4", 0)]
    split = load_split(data, "train", ("wave", "rest"))
    assert [(s.path.name, s.label) for s in split.segments] == [("a.mp4", 1), ("b.mp4", 0)]


def test_a_class_without_training_clips_is_named(data):
    list_segments(data, ("a.mp4", 0, 2, "rest"), ("b.mp4", 0, 1, "wave"))
    with pytest.raises(DataError, match=r"segments\.csv has no training clip of point; add some"):
        load_split(data, "train", NAMES)
    with pytest.raises(DataError, match=r"no clips in .*segments\.csv of the classes point"):
        load_split(data, "train", ("point",))
    list_segments(data, ("../train/a.mp4", 0, 2, "rest"), split="validation")
    assert len(load_split(data, "validation", NAMES).segments) == 1


def test_a_split_without_clips_is_named(data):
    with pytest.raises(DataError, match=r"no clips in .*train: neither segments\.csv nor frames"):
        load_split(data, "train", NAMES)
    with pytest.raises(DataError, match="no clips in .*validation"):
        load_split(data, "validation", NAMES)


def test_few_missing_videos_are_left_out_and_listed(data):
    rows = [("a.mp4", i, i + 1, NAMES[i % 3]) for i in range(100)]
    list_segments(data, *rows, ("gone.mp4", 0, 1, "wave"))
    split = load_split(data, "train", NAMES)
    assert len(split.segments) == 100
    assert split.skipped == (data / "train" / "gone.mp4",)
    list_segments(data, *rows, ("gone.mp4", 0, 1, "wave"), ("gone.mp4", 1, 2, "wave"))
    with pytest.raises(DataError, match=r"2 of 102 clips are missing, at most 1% may"):
        load_split(data, "train", NAMES)
    (data / "data.yaml").write_text("max_missing: 0.05\n")
    assert len(load_split(data, "train", NAMES).segments) == 100


def test_missing_videos_are_counted_and_the_first_named(data):
    rows = [(name, 0, 1, "wave") for name in ("a.mp4", "c.mp4", "d.mp4", "c.mp4")]
    list_segments(data, *rows)
    with pytest.raises(DataError, match=r"names 2 files that are not there, first .*c\.mp4"):
        load_split(data, "train", NAMES)


def test_an_unknown_label_is_named_with_its_line(data):
    list_segments(data, ("a.mp4", 0, 1, "wave"), ("a.mp4", 1, 2, "jump"))
    with pytest.raises(
        DataError, match="line 3: unknown label 'jump'; known are point, rest, wave"
    ):
        load_split(data, "train", NAMES)


# ---- splits of arrays


@pytest.fixture
def arrays(tiny_data):
    return load_split(tiny_data, "train", LABELS)


def test_each_array_clip_is_used_in_both_directions(arrays):
    clips = arrays.clips(SMALL, SEGMENTS)
    assert isinstance(clips, ArrayClipSet)
    assert len(clips) == 2 * len(arrays.arrays.label)
    forwards, backwards = clips[0], clips[1]
    names = [LABELS[item[1]] for item in (forwards, backwards)]
    assert names == ["slide_left", "slide_right"]
    assert np.array_equal(forwards[0], backwards[0].flip(0))


def test_excluded_classes_leave_the_arrays_and_their_lengths(tiny_data, arrays):
    assert sorted(arrays.lengths_s) == sorted(arrays.arrays.duration_s)
    pair = load_split(tiny_data, "train", ("rise", "fall", "slide_left"))
    labels = [clip[1] for clip in iterated(pair.clips(SMALL, SEGMENTS))]
    assert set(labels) == {0, 1, 2}
    assert labels.count(0) == labels.count(1)
    forward = {"rise", "slide_left"}
    used = [LABELS[label] in forward for label in arrays.arrays.label]
    assert pair.lengths_s == arrays.arrays.duration_s[used].tolist()


def iterated(clips):
    return [clips[index] for index in range(len(clips))]


def test_arrays_of_another_size_say_how_to_make_the_right_one(arrays):
    rule = PictureRule(height_px=48, width_px=48)
    with pytest.raises(DataError, match="hold 32×32 pictures, the recipe asks for 48×48"):
        arrays.clips(rule, SEGMENTS)


def test_an_unfinished_array_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "frames.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds no finished data"):
        load_split(tmp_path, "train", LABELS)


# ---- tapes


def test_a_tape_is_one_video_and_its_actions_in_order(data):
    rows = [("a.mp4", 3, 4, "wave"), ("a.mp4", 1, 2, "rest")]
    list_segments(data, *rows, split="tape", name="tape.csv")
    video, truth = load_tape(data, "tape", NAMES)
    assert video == data / "tape" / "a.mp4"
    assert [(s.start_s, s.label) for s in truth] == [(1.0, "rest"), (3.0, "wave")]


def test_a_tape_of_several_videos_is_several_tapes(data):
    rows = [("b.mp4", 1, 2, "wave"), ("a.mp4", 0, 1, "rest"), ("b.mp4", 0, 1, "rest")]
    list_segments(data, *rows, split="tape", name="tape.csv")
    tapes = load_tapes(data, "tape", NAMES)
    assert [(video.name, [s.start_s for s in truth]) for video, truth in tapes] == [
        ("b.mp4", [0, 1]),
        ("a.mp4", [0]),
    ]
    with pytest.raises(DataError, match=r"tape\.csv must describe one video, got 2"):
        load_tape(data, "tape", NAMES)


def test_a_tape_without_its_video_or_truth_is_named(data):
    with pytest.raises(DataError, match=r"tape\.csv cannot be read"):
        load_tape(data, "tape", NAMES)
    list_segments(data, ("gone.mp4", 0, 1, "wave"), split="tape", name="tape.csv")
    with pytest.raises(DataError, match=r"describes .*gone\.mp4, which is not there"):
        load_tape(data, "tape", NAMES)


def test_a_model_that_leaves_classes_out_has_no_tape(data):
    assert has_tape(data, "tape", NAMES)
    assert not has_tape(data, "tape", ("wave", "rest"))
    assert not has_tape(data, "tape_validation", NAMES)


def test_a_split_of_segments_has_no_arrays():
    assert Split(NAMES, None, ()).lengths_s == []


# ---- any data


def test_a_folder_of_no_known_format_names_all_that_are_known(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match="no known format; known are: own .*something_v2.*folders"):
        detect_format(tmp_path)
    with pytest.raises(DataError, match="gone is no folder; give a data folder or a .yaml file"):
        read_labels(tmp_path / "gone")


def test_a_yaml_file_names_the_format_or_is_told_which_there_are(data):
    (data / "data.yaml").write_text("format: onw\n")
    with pytest.raises(
        DataError, match=r"data\.yaml line 1: unknown format 'onw'; did you mean own"
    ):
        detect_format(data)
    (data / "data.yaml").write_text("format: own\nkind: videos\n")
    with pytest.raises(DataError, match=r"kind means nothing to data of the format own; .* lists"):
        detect_format(data)
    (data / "data.yaml").write_text("format: own\n")
    assert detect_format(data) == "own"


def test_classes_are_merged_and_dropped(data):
    (data / "data.yaml").write_text("merge: {move: [wave, point]}\n")
    rows = [("a.mp4", 0, 2, "rest"), ("b.mp4", 0, 1, "wave"), ("b.mp4", 2, 3, "point")]
    list_segments(data, *rows)
    assert read_labels(data) == ("move", "rest")
    labels = [s.label for s in load_split(data, "train", ("move", "rest")).segments]
    assert labels == [1, 0, 0]
    (data / "data.yaml").write_text("drop: [point]\n")
    assert read_labels(data) == ("wave", "rest")
    assert [s.label for s in load_split(data, "train", ("wave", "rest")).segments] == [1, 0]
    # two classes may change their names
    (data / "data.yaml").write_text("merge: {wave: [point], point: [wave]}\n")
    assert read_labels(data) == ("point", "wave", "rest")
    labels = [s.label for s in load_split(data, "train", ("point", "wave", "rest")).segments]
    assert labels == [2, 0, 1]


@pytest.mark.parametrize("field", ["merge: {move: [wawe]}", "drop: [wawe]"])
def test_merging_an_unknown_class_is_refused(data, field):
    (data / "data.yaml").write_text(field)
    list_segments(data, ("a.mp4", 0, 2, "rest"))
    with pytest.raises(DataError, match="names the class 'wawe'; did you mean wave"):
        read_labels(data)


def test_calibration_is_a_part_of_the_training_clips_where_there_is_none(data):
    rows = [("a.mp4", i, i + 1, "wave" if i % 60 else NAMES[i // 60 % 2 + 1]) for i in range(1200)]
    list_segments(data, *rows)
    split = load_split(data, "calibration", NAMES)
    assert len(split.segments) == 500
    again = load_split(data, "calibration", NAMES)
    assert split.segments == again.segments
    starts = [s.start_s for s in split.segments]
    assert starts == sorted(starts)
    # the rare classes are there whole, the common one fills up
    assert [sum(s.label == k for s in split.segments) for k in range(3)] == [480, 10, 10]
    assert set(split.segments) < set(load_split(data, "train", NAMES).segments)
    list_segments(data, ("../train/b.mp4", 0, 1, "rest"), split="calibration")
    assert len(load_split(data, "calibration", NAMES).segments) == 1


def test_calibration_of_arrays_is_not_made_up(tiny_data, tmp_path):
    (tmp_path / "train").symlink_to(tiny_data / "train")
    (tmp_path / "labels.txt").symlink_to(tiny_data / "labels.txt")
    with pytest.raises(DataError, match="no clips in .*calibration: neither"):
        load_split(tmp_path, "calibration", LABELS)


def test_the_calibration_part_takes_classes_in_turn(data):
    rows = [("a.mp4", i, i + 1, NAMES[i % 3]) for i in range(30)]
    list_segments(data, *rows)
    part = calibration_part(load_split(data, "train", NAMES).segments, most=7)
    counts = sorted(sum(s.label == k for s in part) for k in range(3))
    assert counts == [2, 2, 3]


def test_folds_replace_the_split(data):
    for name in ("c.mp4", "d.mp4"):
        (data / "train" / name).touch()
    list_segments(
        data, *[(n, 0, 1, NAMES[i % 3]) for i, n in enumerate(["a.mp4", "b.mp4", "c.mp4"])]
    )
    list_segments(data, ("../train/d.mp4", 0, 1, "wave"), split="validation")
    (data / "folds.csv").write_text(
        "path,fold\ntrain/a.mp4,0\ntrain/b.mp4,0\ntrain/c.mp4,0\nvalidation/../train/d.mp4,1\n"
    )
    yaml = data.parent / "fold.yaml"
    yaml.write_text(f"root: {data}\nfolds: {data / 'folds.csv'}\nfold: 1\n")
    names = [s.path.name for s in load_split(yaml, "train", NAMES).segments]
    assert names == ["a.mp4", "b.mp4", "c.mp4"]
    yaml.write_text(f"root: {data}\nfolds: {data / 'folds.csv'}\nfold: 0\n")
    names = [s.path.name for s in load_split(yaml, "validation", NAMES).segments]
    assert names == ["a.mp4", "b.mp4", "c.mp4"]
    with pytest.raises(DataError, match="has no training clip of point, rest"):
        load_split(yaml, "train", NAMES)
    yaml.write_text(f"root: {data}\nfolds: {data / 'folds.csv'}\nfold: 2\n")
    with pytest.raises(DataError, match="has no fold 2; there are 0, 1"):
        load_split(yaml, "train", NAMES)
    (data / "folds.csv").write_text("path,fold\ntrain/a.mp4,2\n")
    with pytest.raises(DataError, match=r"does not name .*b\.mp4; make the folds again"):
        load_split(yaml, "train", NAMES)


def test_a_root_may_name_an_environment_variable(tmp_path, monkeypatch):
    for split in ("train", "validation"):
        for label in ("a", "b"):
            (tmp_path / "clips" / split / label).mkdir(parents=True)
            (tmp_path / "clips" / split / label / "1.mp4").touch()
    spec = tmp_path / "my.yaml"
    spec.write_text("root: $TDRL_TEST_PLACE/clips\n", encoding="utf-8")
    monkeypatch.setenv("TDRL_TEST_PLACE", str(tmp_path))
    assert read_labels(spec) == ("a", "b")
    monkeypatch.delenv("TDRL_TEST_PLACE")
    with pytest.raises(
        DataError, match=r"my\.yaml line 1: root is '\$TDRL_TEST_PLACE/clips': set that"
    ):
        read_labels(spec)
