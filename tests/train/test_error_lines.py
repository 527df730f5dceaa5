"""Wrong files of data and recipes: each message is one line and begins with the file and its line.

Clips are empty files; nothing is decoded.
"""

import pickle
import re
from dataclasses import replace

import pytest

from runtime.errors import DataError
from train.data.catalog import load_split, read_labels
from train.data.formats.spec import DataSpec, read_spec, with_fold, write_spec
from train.recipe_file import load_recipe

RECORDINGS = {
    "segments.csv": "path,start_s,end_s,label,motion\na.mp4,0,1,sit,1\nb.mp4,0,1,walk,2\n",
    "a.mp4": "",
    "b.mp4": "",
}
FOLDERS = {"sit/a.mp4": "", "sit/b.mp4": "", "walk/a.mp4": "", "walk/b.mp4": ""}
SSV2 = {
    "labels.json": '{"Holding something": "0",\n "Moving something": "1"}',
    "train.json": '[{"id": "1", "template": "Holding [something]"}]',
}


def lay_out(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def assert_begins(message, place):
    """One line that begins with the place, and says something."""
    assert re.fullmatch(rf"{re.escape(str(place))}:? \S.*", message), message


def assert_refused(root, name, line):
    with pytest.raises(DataError) as caught:
        load_split(root, "train", read_labels(root))
    assert_begins(str(caught.value), f"{root / name} line {line}")


@pytest.mark.parametrize(
    ("files", "text", "line"),
    [
        (FOLDERS, "seed: 1\nformat: foldres\n", 2),
        (FOLDERS, "# mine\n\nmerge: {move: [wlak]}\n", 3),
        (FOLDERS, "seed: 1\nmerge:\n  move:\n  - wlak\ndrop: [sit]\n", 2),
        (FOLDERS, "seed: 1\ndrop: [wlak]\n", 2),
        (FOLDERS, "seed: 1\n\nlabels: [walk, run, sit]\n", 3),
        (FOLDERS, "seed: 1\nlabels: [walk, run]\n", 2),
        (FOLDERS, "format: folders\nkind: videos\n", 2),
        (FOLDERS, "format: folders\ntest: list.txt\n", 2),
        (FOLDERS, "seed: 1\nfold: 2\n", 2),
        (FOLDERS, "seed: 1\n\nfolds: folds.csv\n", 3),
        (FOLDERS, "folds: folds.csv\nfold: -1\n", 2),
        (
            {**FOLDERS, "folds.csv": "path,fold\nsit/a.mp4,0\nwalk/a.mp4,1\n"},
            "folds: folds.csv\nfold: 2\n",
            2,
        ),
        (FOLDERS, "seed: 1\nroot: gone\n", 2),
        (FOLDERS, "seed: 1\nroot: $TDRL_NO_SUCH_PLACE/clips\n", 2),
        (FOLDERS, "seed: 1\ntrue: 3\n", 2),
        (FOLDERS, "seed: 1\r\nfps: 0\r\n", 2),
        (FOLDERS, "- seed\n", 1),
        (RECORDINGS, "seed: 1\nlabels: [walk]\n", 2),
        (RECORDINGS, "filter:\n- {label: wlak, column: motion, above: 1}\n", 1),
        (RECORDINGS, "seed: 1\nfilter: [{label: walk, column: moton, above: 1}]\n", 2),
        (RECORDINGS, "seed: 1\nvideos: {train: clips}\n", 2),
        (SSV2, "fps: 12\nvideos: gone\n", 2),
        (SSV2, "fps: 12\nvideos:\n  train: gone\n", 2),
    ],
)
def test_data_yaml(tmp_path, files, text, line):
    lay_out(tmp_path, {**files, "data.yaml": text})
    assert_refused(tmp_path, "data.yaml", line)


@pytest.mark.parametrize(
    ("names", "line"), [("sit\n\nwlak\nwalk\n", 3), ("\n\nsit\n", 3), ("sit\nwalk\nsit\n", 3)]
)
def test_names_of_folders(tmp_path, names, line):
    lay_out(tmp_path, {**FOLDERS, "labels.txt": names})
    assert_refused(tmp_path, "labels.txt", line)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("train.json", '[\n{"id": "1", "template": "Holding something"},\n"9"\n]', 3),
        ("train.json", '[\n{"id": "1",\n "template": "Holding something"}, {},\n{}]', 3),
        ("train.json", '\n[\n {\n  "template": "Moving something",\n  "id": ""\n }\n]', 5),
        ("train.json", '[{\n  "id": "1",\n  "template": "Movin [something]"\n}]', 2),
        ("train.json", '[{\n  "template": "Movin [something]",\n  "id": 1\n}]', 3),
        # the id of the wrong clip is text of another clip before it
        (
            "train.json",
            '[{"id": "1", "label": "\\"id\\": 9 ],", "template": "Holding something",\n'
            '  "placeholders": ["9", "id"]},\n {"id": "9", "template": "Movin something"}]',
            3,
        ),
        ("train.json", '{\n"id": "1"}', 1),
        ("train.json", '[{"id": "1"},\n]', 2),
        ("labels.json", '{"a": "0",\n\n "b": "0"}', 3),
        ("labels.json", '\n{\n "0": "1",\n "1": "2"}', 4),
        ("labels.json", '{"a": "0", "b": "1",\n "caf\\u00e9": "x"}', 2),
        ("labels.json", '{"a": "0",\n "b": "1",\n "a": "5"}', 3),
        ("labels.json", '[\n"a"]', 1),
    ],
)
def test_json_of_something_v2(tmp_path, name, text, line):
    lay_out(tmp_path, {**SSV2, name: text})
    assert_refused(tmp_path, name, line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# mine\nbackbone: tiny\nepochs: 0\n", 3),
        ("backbone: tiny\nepoch: 3\n", 2),
        ("backbone: tiny\ntrue: 3\n", 2),
        ("backbone: tiny\n\nepochs: ten\n", 3),
        ("backbone: tiny\nexclude:\n- 1\n", 2),
        ("epochs: 3\nbackbone: resnet19\n", 2),
        ("backbone: tiny\npreset: tdr\n", 2),
        ("epochs: 3\n", 1),
        ("- epochs\n", 1),
        # the field that the message names first is not in the file
        ("backbone: tiny\nepochs: 9\nschedule: steps\n", 3),
        ("backbone: tiny\npreset: tdrl\nnum_segments: 1\n", 3),
        # the message names no field of a recipe
        ("backbone: tiny\ntd_blocks: [7]\n", 2),
        # two are wrong
        ("backbone: tiny\nbatch_size: 0\nepochs: 0\n", 3),
    ],
)
def test_recipe(tmp_path, text, line):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, DataError)) as caught:
        load_recipe(str(path))
    assert_begins(str(caught.value), f"{path} line {line}")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"epochs": "0"}, "--set epochs=0"),
        ({"epochs": "ten"}, "--set epochs=ten"),
        ({"epochs": "["}, "--set epochs=["),
        ({"epoch": "3"}, "--set epoch=3"),
        ({"preset": "tdr"}, "--set preset=tdr"),
        ({"pem": "true", "num_segments": "1"}, "--set num_segments=1"),
        # the file's value was right before the change
        ({"pem": "true", "epochs": "5"}, "--set epochs=5"),
        ({"epochs": "12", "schedule": "steps"}, "--set schedule=steps"),
    ],
)
def test_change_of_a_recipe(tmp_path, changes, place):
    path = tmp_path / "my.yaml"
    path.write_text("backbone: tiny\nepochs: 30\nschedule: cosine\nwarmup_epochs: 10\n")
    load_recipe(str(path))
    with pytest.raises(ValueError, match="^--set ") as caught:
        load_recipe(str(path), changes)
    assert_begins(str(caught.value), place)


def test_a_change_that_is_right_leaves_the_blame_with_the_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("backbone: tiny\nepochs: 0\n")
    with pytest.raises(ValueError, match=r"my\.yaml line 2: epochs must be > 0, got 0"):
        load_recipe(str(path), {"seed": "3"})


def test_lines_are_for_messages_only(tmp_path):
    lay_out(tmp_path, {"data.yaml": "seed: 1\ndrop: [a]\n"})
    spec = read_spec(tmp_path)
    assert spec.where_of("drop") == f"{tmp_path / 'data.yaml'} line 2"
    assert spec.where_of("merge") == str(tmp_path / "data.yaml")
    assert DataSpec(root=tmp_path).where_of("drop") == str(tmp_path)
    built = DataSpec(root=tmp_path, source=tmp_path / "data.yaml", seed=1, drop=("a",))
    assert spec == built
    assert repr(spec) == repr(built)
    assert pickle.loads(pickle.dumps(spec)).where_of("drop") == spec.where_of("drop")
    folded = with_fold(spec, 1, tmp_path / "folds.csv")
    assert folded.where_of("drop") == spec.where_of("drop")
    write_spec(tmp_path / "copy.yaml", folded)
    assert "\nlines:" not in (tmp_path / "copy.yaml").read_text()
    again = read_spec(tmp_path / "copy.yaml")
    assert replace(again, source=folded.source) == folded
    assert again.where_of("drop") == f"{tmp_path / 'copy.yaml'} line 2"
