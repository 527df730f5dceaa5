import numpy as np
import pytest

from runtime.errors import DataError, OutputError
from tests.full_disk import full_disk
from tests.videos import drifting_pattern
from train.collect_folder import (
    ClipFolder,
    count_clips,
    delete_clip,
    newest_clip,
    open_folder,
    read_label_file,
    sessions_of,
    split_note,
)
from train.collect_recorder import Take
from train.data.catalog import detect_format, load_split, read_labels
from train.data.video_file import read_video

LABELS = ("wave", "rest")  # not sorted: the list's order is kept


def take(label, num_frames=10, fps=12.5, size=(32, 48)):
    times_s = tuple(5 + k / fps for k in range(num_frames))
    return Take(label, tuple(drifting_pattern(num_frames, *size)), times_s)


def folder_of(root, session="one"):
    made = ClipFolder(root, LABELS, session)
    root.mkdir(exist_ok=True)
    made.create()
    return made


def files_in(root):
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix
    }


@pytest.mark.parametrize("fps", [8.37, 12.5, 14.985, 25, 29.97, 60])
def test_a_clip_is_read_back_frame_by_frame_with_its_times(tmp_path, fps):
    made = folder_of(tmp_path)
    written = take("rest", 24, fps)
    path = made.write(written)
    assert path == tmp_path / "rest" / "one_0001.mp4"
    pictures, times_s = read_video(path)
    assert len(pictures) == 24
    assert np.abs(times_s - (np.array(written.times_s) - 5)).max() < 1e-3
    assert np.abs(pictures.astype(int) - np.stack(written.pictures)).mean() < 12


def test_odd_sides_lose_a_row_and_a_column(tmp_path):
    path = folder_of(tmp_path).write(take("rest", size=(33, 47 // 3 * 3)))
    assert read_video(path)[0].shape[1:] == (32, 44, 3)


def test_numbers_go_on_within_a_session_and_start_anew_in_the_next(tmp_path):
    one = folder_of(tmp_path, "one")
    assert [one.write(take("wave")).name for _ in range(2)] == ["one_0001.mp4", "one_0002.mp4"]
    assert folder_of(tmp_path, "one_0001").write(take("wave")).name == "one_0001_0001.mp4"
    assert folder_of(tmp_path, "one").write(take("wave")).name == "one_0003.mp4"
    assert folder_of(tmp_path, "one").write(take("rest")).name == "one_0001.mp4"


def test_training_reads_what_was_written_in_the_order_of_the_classes(tmp_path):
    for session in ("one", "two"):
        made = folder_of(tmp_path, session)
        for label in LABELS:
            for _ in range(3):
                made.write(take(label))
    assert detect_format(tmp_path) == "folders"
    assert read_labels(tmp_path) == LABELS
    parts = {name: load_split(tmp_path, name, LABELS).segments for name in ("train", "validation")}
    groups = {name: {one.group for one in part} for name, part in parts.items()}
    assert groups["train"] | groups["validation"] == {"one", "two"}
    assert not groups["train"] & groups["validation"]
    assert sum(map(len, parts.values())) == 12
    for part in parts.values():
        assert {one.path.parent.name for one in part} == set(LABELS)
        assert all(LABELS[one.label] == one.path.parent.name for one in part)


def test_three_sessions_are_never_cut(tmp_path):
    for session, number in (("a", 4), ("b", 2), ("c", 1)):
        made = folder_of(tmp_path, session)
        for label in LABELS:
            for _ in range(number):
                made.write(take(label, 8))
    groups = [
        {one.group for one in load_split(tmp_path, name, LABELS).segments}
        for name in ("train", "validation")
    ]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == {"a", "b", "c"}


def test_delete_takes_exactly_the_newest_and_then_the_one_before(tmp_path):
    made = folder_of(tmp_path)
    paths = [made.write(take(label)) for label in ("wave", "rest", "wave")]
    # other clips, however new they are, are not this command's
    (tmp_path / "wave" / "mine_0001.mp4").write_bytes(paths[0].read_bytes())
    for path in reversed(paths):
        assert newest_clip(tmp_path) == path
        before = files_in(tmp_path)
        delete_clip(path)
        assert before - files_in(tmp_path) == {str(path.relative_to(tmp_path))}
    with pytest.raises(DataError, match="no clip that this command wrote; nothing was deleted"):
        newest_clip(tmp_path)
    assert (tmp_path / "wave" / "mine_0001.mp4").is_file()


def test_a_number_that_was_deleted_is_used_again_and_is_the_newest(tmp_path):
    made = folder_of(tmp_path)
    first = made.write(take("wave"))
    delete_clip(made.write(take("rest")))
    assert made.write(take("rest")).name == "one_0001.mp4"
    assert newest_clip(tmp_path).parent.name == "rest"
    delete_clip(newest_clip(tmp_path))
    assert newest_clip(tmp_path) == first


def test_a_clip_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.mp4 is gone already"):
        delete_clip(tmp_path / "gone.mp4")


@pytest.mark.parametrize("line", ["../outside.mp4", "wave/../../outside.mp4", "/outside.mp4", "x"])
def test_a_changed_journal_deletes_nothing_outside(tmp_path, line):
    (tmp_path / "outside.mp4").touch()
    made = folder_of(tmp_path / "data")
    (made.root / ".collected.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match="nothing was deleted"):
        newest_clip(made.root)


def test_a_torn_line_of_the_journal_does_not_hide_the_next_clip(tmp_path):
    made = folder_of(tmp_path)
    (tmp_path / ".collected.txt").write_text("wave/one_00")
    path = made.write(take("wave"))
    assert newest_clip(tmp_path) == path


def test_a_full_disk_leaves_nothing_half_written_and_keeps_the_others(tmp_path):
    made = folder_of(tmp_path)
    kept = made.write(take("wave"))
    before = files_in(tmp_path)
    with full_disk(2000), pytest.raises(OutputError, match=r"not written, earlier ones are kept"):
        made.write(take("wave", 20, size=(96, 96)))
    assert files_in(tmp_path) == before
    assert newest_clip(tmp_path) == kept
    assert count_clips(tmp_path, LABELS) == {"wave": 1, "rest": 0}
    assert made.write(take("wave")).name == "one_0002.mp4"


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    made = folder_of(tmp_path)

    class Interrupting(tuple[np.ndarray, ...]):
        def __iter__(self):
            yield from tuple.__iter__(self)
            raise KeyboardInterrupt

    whole = take("wave")
    with pytest.raises(KeyboardInterrupt):
        made.write(Take("wave", Interrupting(whole.pictures), whole.times_s))
    assert files_in(tmp_path) == {"labels.txt", ".collected.txt"}
    with pytest.raises(DataError, match="nothing was deleted"):
        newest_clip(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    made = folder_of(tmp_path)
    (tmp_path / "wave").rmdir()
    (tmp_path / "wave").touch()
    with pytest.raises(OutputError, match="earlier ones are kept: .*File exists: .*wave"):
        made.write(take("wave"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wave\n\nrest\n", r"labels\.txt line 2 is blank"),
        ("wave\nrest\n\n", r"line 3 is blank"),
        ("wave\n  \nrest", r"line 2 is blank"),
        ("wave\nrest\nwave\n", r"line 3 names 'wave' again \(line 1\)"),
        ("wave\nWave\n", r"line 2 names 'Wave' again \(line 1\)"),
        ("wave\na/b\n", r"line 2: 'a/b' cannot be the name of a folder"),
        ("wave\n..\n", r"line 2: '\.\.' cannot be the name of a folder; no leading dot"),
        (".hidden\nwave\n", r"line 1: '\.hidden' cannot be"),
        ("a\tb\nwave\n", r"line 1: 'a\\tb' cannot be"),
        ("wave\ntrain\n", r"line 2: a class cannot be called 'train'"),
        ("tape\nwave\n", r"line 1: a class cannot be called 'tape'"),
        ("x" * 200 + "\nwave\n", "at most 120 bytes"),
        ("wave\n", "at least two classes, one a line, got 1"),
        ("", "at least two classes, one a line, got 0"),
    ],
)
def test_wrong_lists_of_classes_are_refused_with_file_and_line(tmp_path, text, message):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_file(tmp_path / "labels.txt")


def test_a_list_may_come_from_windows_and_hold_spaces_and_umlauts(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffpick up\r\nöffnen\r\n".encode())
    assert read_label_file(path) == ("pick up", "öffnen")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_label_file(tmp_path / "none.txt")


def listed(tmp_path, *names):
    path = tmp_path / "given.txt"
    path.write_text("\n".join(names))
    return path


def test_a_second_session_needs_no_list(tmp_path):
    folder_of(tmp_path / "data")
    assert open_folder(tmp_path / "data", None, "two").labels == LABELS


def test_new_classes_go_to_the_end(tmp_path):
    folder_of(tmp_path / "data")
    made = open_folder(tmp_path / "data", listed(tmp_path, *LABELS, "clap"), "two")
    made.create()
    assert made.labels == (*LABELS, "clap")
    assert open_folder(tmp_path / "data", None, "three").labels == (*LABELS, "clap")


@pytest.mark.parametrize("names", [("rest", "wave"), ("wave", "clap"), ("clap", "wave", "rest")])
def test_other_classes_than_the_folders_are_refused(tmp_path, names):
    folder_of(tmp_path / "data")
    with pytest.raises(DataError, match=r"given\.txt lists .* has the classes wave, rest"):
        open_folder(tmp_path / "data", listed(tmp_path, *names), "two")


def test_folders_without_a_list_are_classes(tmp_path):
    for name in ("b", "a"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert open_folder(tmp_path / "data", None, "one").labels == ("a", "b")
    given = listed(tmp_path, "b", "a", "c")
    assert open_folder(tmp_path / "data", given, "one").labels == ("b", "a", "c")
    with pytest.raises(DataError, match=r"has the classes a, b"):
        open_folder(tmp_path / "data", listed(tmp_path, "b", "c"), "one")


def test_a_new_folder_needs_a_list(tmp_path):
    with pytest.raises(DataError, match=r"data has 0 classes, .*give --labels"):
        open_folder(tmp_path / "data", None, "one")
    assert not (tmp_path / "data").exists()


def test_a_folder_that_the_list_does_not_name_is_refused(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "wawe").mkdir()
    with pytest.raises(DataError, match=r"does not name the folder 'wawe'; did you mean wave\?"):
        open_folder(tmp_path, None, "one")


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "", "a b\n", "x" * 121])
def test_a_session_must_be_a_file_name(tmp_path, name):
    with pytest.raises(ValueError, match="--session must be letters, digits"):
        open_folder(tmp_path, None, name)


def test_data_of_another_format_are_left_alone(tmp_path):
    (tmp_path / "split" / "train" / "wave").mkdir(parents=True)
    with pytest.raises(DataError, match="holds data that are split already"):
        open_folder(tmp_path / "split", listed(tmp_path, *LABELS), "one")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "segments.csv").write_text("path,start_s,end_s,label\n")
    with pytest.raises(DataError, match="holds data that are split already"):
        open_folder(tmp_path / "cut", listed(tmp_path, *LABELS), "one")
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "data.yaml").write_text("format: kinetics\n")
    with pytest.raises(DataError, match=r"data\.yaml says that the data are read in another way"):
        open_folder(tmp_path / "said", listed(tmp_path, *LABELS), "one")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is no folder"):
        open_folder(tmp_path / "file", listed(tmp_path, *LABELS), "one")


def test_clips_that_others_put_there_are_counted_too(tmp_path):
    made = folder_of(tmp_path)
    path = made.write(take("wave"))
    (tmp_path / "wave" / "party").mkdir()
    for name in ("wave/clip.mp4", "wave/party/clip.mp4", "wave/party/clip2.mp4"):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "wave" / ".one_0002.77.part.mp4").touch()
    assert sessions_of(tmp_path, LABELS) == {"wave": {"one": 1, "": 1, "party": 2}, "rest": {}}
    assert count_clips(tmp_path, LABELS) == {"wave": 4, "rest": 0}


@pytest.mark.parametrize(
    ("sessions", "note"),
    [
        ({"a": {}, "b": {}}, "no clip yet of a, b"),
        ({"a": {"s": 2}, "b": {"s": 2}}, "one session only: train and validation will be split"),
        ({"a": {"s": 2, "t": 1}, "b": {"t": 2}}, "one session only (b): train and validation"),
        ({"a": {"s": 2, "t": 1}, "b": {"s": 1, "t": 2}}, "2 sessions: whole sessions will"),
        ({"a": {"s": 2}, "b": {}}, "no clip yet of b; one session only: train"),
        ({"a": {"": 2}, "b": {"": 2}}, "one session only: train"),
    ],
)
def test_the_note_says_how_clips_will_be_split(sessions, note):
    assert split_note(sessions).startswith(note)
