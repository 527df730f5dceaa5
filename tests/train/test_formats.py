"""Data sets as others lay them out: names, classes and clips as the disk has them, and wrong lines.

Clips are empty files and folders, except where their pictures or lengths matter.
"""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from tests.train import small_data
from train.data.catalog import detect_format, load_split, load_tapes, read_labels
from train.data.clips import ClipRule
from train.data.formats.spec import Background, DataSpec, Filter, read_spec, write_spec


def write(root, **files):
    """Text files by name: two underscores are a slash, the last one is the dot of the suffix."""
    for name, text in files.items():
        path = root / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def touch(root, *names):
    """Empty files; a name that ends in a slash is a folder."""
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()


def draw(folder, template, numbers):
    """Pictures that are as grey as 10 times their number."""
    folder.mkdir(parents=True)
    for number in numbers:
        grey = np.full((8, 8, 3), 10 * number, np.uint8)
        assert cv2.imwrite(str(folder / template.format(number)), grey)


def read(data, split="train", labels=None):
    """Path in the data's folder, class index and group of every clip."""
    root = read_spec(data).root
    found = load_split(data, split, labels or read_labels(data)).segments
    return [(one.path.relative_to(root).as_posix(), one.label, one.group) for one in found]


def paths(data, split="train"):
    return [path for path, _, _ in read(data, split)]


def drawn(data, item=0):
    """Numbers of the pictures that one clip of the training split shows, of four segments."""
    picture = PictureRule(height_px=8, width_px=8, crop="full")
    rule = ClipRule(num_segments=4, spacing_s=0.5, sampling="segments")
    clip, _ = load_split(data, "train", read_labels(data)).clips(picture, rule)[item]
    return [round(float(frame.float().mean()) / 10) for frame in clip]


# ---- Something-Something V1 and Jester: the same csv lists

CSV_SETS = pytest.mark.parametrize(
    ("name", "prefix", "folder"),
    [
        ("something_v1", "something-something-v1", "20bn-something-something-v1"),
        ("jester", "jester-v1", "20bn-jester-v1"),
    ],
    ids=["something_v1", "jester"],
)


def csv_set(root, prefix, folder, train="1;Zooming In\n22; No gesture \n3;Drumming\n"):
    lists = {"labels": "Zooming In\nDrumming\nNo gesture\n", "train": train}
    lists |= {"validation": "4;Drumming\n5;Zooming In\n"}
    for name, text in lists.items():
        (root / f"{prefix}-{name}.csv").write_text(text)
    touch(root, *(f"{folder}/{number}/" for number in (1, 22, 3, 4, 5)))


@CSV_SETS
def test_clips_of_csv_lists_are_frame_folders(tmp_path, name, prefix, folder):
    csv_set(tmp_path, prefix, folder)
    assert detect_format(tmp_path) == name
    assert read_labels(tmp_path) == ("Zooming In", "Drumming", "No gesture")
    assert read(tmp_path) == [(f"{folder}/1", 0, "1"), (f"{folder}/22", 2, "22"),
                              (f"{folder}/3", 1, "3")]  # fmt: skip
    assert read(tmp_path, "validation") == [(f"{folder}/4", 1, "4"), (f"{folder}/5", 0, "5")]
    assert {s.fps for s in load_split(tmp_path, "train", read_labels(tmp_path)).segments} == {12}
    # 20BN's own test list holds ids without labels
    (tmp_path / f"{prefix}-test.csv").write_text("6\n")
    with pytest.raises(DataError, match="has no labelled split 'test'"):
        load_split(tmp_path, "test", read_labels(tmp_path))


@CSV_SETS
def test_the_order_of_tsm_and_tdn_is_the_sorted_one(tmp_path, name, prefix, folder):
    csv_set(tmp_path, prefix, folder)
    (tmp_path / "data.yaml").write_text("class_order: sorted\nfps: 8\ntemplate: '{:05d}.jpg'\n")
    assert read_labels(tmp_path) == ("Drumming", "No gesture", "Zooming In")
    assert [label for _, label, _ in read(tmp_path)] == [2, 1, 0]
    assert [label for _, label, _ in read(tmp_path, "validation")] == [0, 2]
    first = load_split(tmp_path, "train", read_labels(tmp_path)).segments[0]
    assert (first.fps, first.template) == (8, "{:05d}.jpg")
    (tmp_path / "data.yaml").write_text("class_order: file\n")
    assert read_labels(tmp_path) == ("Zooming In", "Drumming", "No gesture")


@CSV_SETS
def test_lists_and_clips_may_lie_elsewhere_and_clips_may_be_videos(tmp_path, name, prefix, folder):
    csv_set(tmp_path, prefix, "clips")
    (tmp_path / "annotations").mkdir()
    for path in tmp_path.glob("*.csv"):
        path.rename(tmp_path / "annotations" / path.name)
    (tmp_path / "data.yaml").write_text("videos: clips\n")
    (tmp_path / "clips/22").rmdir()
    touch(tmp_path, "clips/22.webm", "clips/3.txt")
    assert detect_format(tmp_path) == name
    assert paths(tmp_path) == ["clips/1", "clips/22.webm", "clips/3"]
    video = load_split(tmp_path, "train", read_labels(tmp_path)).segments[1]
    assert (video.fps, video.template, video.group) == (None, None, "22")
    (tmp_path / "clips").rename(tmp_path / "rawframes")
    with pytest.raises(
        DataError, match=r"data\.yaml line 1: videos names .*clips, which is no folder"
    ):
        read(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert paths(tmp_path)[0] == "rawframes/1"


@CSV_SETS
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("22,Drumming", "train.csv line 2: expected `id;label`, got '22,Drumming'"),
        (";Drumming", "train.csv line 2: the id is empty"),
        ("22;", "train.csv line 2: the label is empty"),
        ("22;Druming", "train.csv line 2: unknown label 'Druming'; did you mean Drumming"),
    ],
)
def test_wrong_lines_of_csv_lists(tmp_path, name, prefix, folder, line, message):
    csv_set(tmp_path, prefix, folder, f"1;Zooming In\n{line}\n3;Drumming\n")
    with pytest.raises(DataError, match=f"{prefix}-{message}"):
        load_split(tmp_path, "train", read_labels(tmp_path))
    (tmp_path / f"{prefix}-labels.csv").write_text("Drumming\nRest\n\nDrumming\n")
    with pytest.raises(DataError, match=r"labels\.csv line 4 names 'Drumming' again \(line 1\)"):
        read_labels(tmp_path)
    (tmp_path / f"{prefix}-labels.csv").unlink()
    with pytest.raises(DataError, match=rf"{prefix}-labels\.csv not found"):
        read_labels(tmp_path)


@CSV_SETS
def test_pictures_count_from_one_and_last_a_twelfth_of_a_second(tmp_path, name, prefix, folder):
    csv_set(tmp_path, prefix, "lists-only")
    for clip, numbers in (("1", range(1, 5)), ("22", range(1, 13)), ("3", range(1, 21))):
        draw(tmp_path / folder / clip, "{:05d}.jpg", numbers)
    assert [drawn(tmp_path, item) for item in range(3)] == [
        [1, 2, 3, 4],
        [2, 5, 8, 11],
        [3, 8, 13, 18],
    ]
    lengths_s = load_split(tmp_path, "train", read_labels(tmp_path)).lengths_s
    assert lengths_s == pytest.approx([4 / 12, 12 / 12, 20 / 12])


# ---- Something-Something V2

ELEVEN = tuple(f"Moving something {word}" for word in "kjihgfedcba")


def ssv2(root, prefix="", clip="{}.webm"):
    """Eleven classes (10 comes after 2), the file's order is neither that of numbers nor names."""
    numbers = {name: str(number) for number, name in enumerate(ELEVEN)}
    listed = dict(sorted(numbers.items(), key=lambda item: (int(item[1]) % 3, item[0])))
    entries = [
        {"id": str(100 + i), "label": "moving a cup", "template": name.replace("something", word)}
        for i, (name, word) in enumerate(zip(ELEVEN, ["[something]"] * 11, strict=True))
    ]
    lists = {"labels": listed, "train": entries[::-1]}
    lists |= {"validation": [{**entries[2], "id": 7}, {**entries[10], "id": "8"}]}
    for name, values in lists.items():
        (root / f"{prefix}{name}.json").write_text(json.dumps(values, indent=1))
    folder = "20bn-something-something-v2"
    touch(root, *(f"{folder}/{clip.format(i)}" for i in [7, 8, *range(100, 111)]))
    return folder


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""], ids=["20bn", "qualcomm"])
@pytest.mark.parametrize("clip", ["{}.webm", "{}/"], ids=["videos", "frames"])
def test_something_v2_under_both_names_of_its_lists(tmp_path, prefix, clip):
    folder = ssv2(tmp_path, prefix, clip)
    assert detect_format(tmp_path) == "something_v2"
    assert read_labels(tmp_path) == ELEVEN
    place = f"{folder}/{clip.rstrip('/')}"
    assert read(tmp_path) == [(place.format(100 + i), i, str(100 + i)) for i in reversed(range(11))]
    assert read(tmp_path, "validation") == [(place.format(7), 2, "7"), (place.format(8), 10, "8")]
    fps = {one.fps for one in load_split(tmp_path, "train", ELEVEN).segments}
    assert fps == {12 if clip == "{}/" else None}
    write(tmp_path, data_yaml="class_order: sorted\n")
    assert read_labels(tmp_path) == ELEVEN[::-1]
    assert [label for _, label, _ in read(tmp_path)] == list(range(11))


def test_frames_of_something_v2_as_tsm_names_them(tmp_path):
    (tmp_path / ssv2(tmp_path)).rename(tmp_path / "old")
    folder = tmp_path / "20bn-something-something-v2-frames"
    for clip in range(100, 111):
        draw(folder / str(clip), "{:06d}.jpg", range(1, 5))
    assert drawn(tmp_path) == [1, 2, 3, 4]
    assert load_split(tmp_path, "train", ELEVEN).lengths_s == pytest.approx([4 / 12] * 11)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"id": "9", "template": "Movin [something] k"},
            r"train\.json line 3 \(id 9\): unknown label 'Movin something k'; did you mean Moving",
        ),
        ({"id": "9", "label": "x"}, r"train\.json line 3 \(id 9\): the label is empty"),
        (
            {"template": "Moving something k"},
            r"train\.json line 3 must hold an id and a template, got {'tem",
        ),
        ("9", r"train\.json line 3 must hold an id and a template, got '9'"),
    ],
)
def test_wrong_entries_of_something_v2(tmp_path, entry, message):
    first = {"id": "1", "template": "Moving [something] k", "placeholders": ["a cup"]}
    ssv2(tmp_path)
    write(tmp_path, train_json=f"[\n{json.dumps(first)},\n{json.dumps(entry)}\n]")
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train", ELEVEN)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('{"a": "0",\n "b": "0"}', r"labels\.json line 2: 'b' has 'a''s number 0"),
        ('{"a": "1",\n "b": "2"}', r"labels\.json line 2: 'b' has no number 0\.\.1: '2'"),
        ('{"a": "x",\n "b": "0"}', r"labels\.json line 1: 'a' has no number 0\.\.1: 'x'"),
        ('["a",\n "b"]', r'labels\.json line 1 must hold {"class": "number"}, got a list'),
        ('{"a": "0",\n "b": 1,}', r"labels\.json line 2 is no JSON: "),
    ],
)
def test_wrong_classes_of_something_v2(tmp_path, labels, message):
    ssv2(tmp_path)
    write(tmp_path, labels_json=labels)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path)
    ssv2(tmp_path)
    write(tmp_path, train_json="{}")
    with pytest.raises(DataError, match=r"train\.json line 1 must hold a list of clips, got a di"):
        load_split(tmp_path, "train", ELEVEN)


# ---- Kinetics

K400 = "label,youtube_id,time_start,time_end,split"
TWO = ("air drumming", "massaging person's head")


def kinetics(root, train=None, validation=None):
    rows = train or ["massaging person's head,-d_e,2,12,train", "air drumming,abc,1,11,train"]
    write(root, kinetics_train_csv="\n".join([f"{K400},is_cc", *(f"{r},0" for r in rows), ""]))
    rows = validation or [
        "air drumming,fgh,100,110,validate",
        '"massaging person\'s head",ijk,3.0,13.0,validate',
    ]
    write(root, kinetics_val_csv="\n".join([K400, *rows, ""]))
    touch(root, "val/fgh_000100_000110.mp4", "val/ijk_000003_000013.webm")


@pytest.mark.parametrize(
    "folders", [("", ""), ("massaging_persons_head/", "air_drumming/"), ("", "air drumming/")]
)
def test_kinetics_flat_and_in_folders_of_classes(tmp_path, folders):
    kinetics(tmp_path)
    first, second = f"{folders[0]}-d_e_000002_000012.mkv", f"{folders[1]}abc_000001_000011.mp4"
    touch(tmp_path / "train", first, second)
    assert detect_format(tmp_path) == "kinetics"
    assert read_labels(tmp_path) == TWO
    assert read(tmp_path) == [(f"train/{first}", 1, "-d_e"), (f"train/{second}", 0, "abc")]
    assert read(tmp_path, "validation") == [
        ("val/fgh_000100_000110.mp4", 0, "fgh"),
        ("val/ijk_000003_000013.webm", 1, "ijk"),
    ]
    with pytest.raises(DataError, match="has no split 'test': kinetics_test.csv or .* be there"):
        load_split(tmp_path, "test", TWO)


def test_kinetics_takes_the_classes_that_it_is_told_in_their_order(tmp_path):
    kinetics(tmp_path)
    touch(tmp_path / "mine", "-d_e_000002_000012.mp4", "abc_000001_000011.mp4")
    write(tmp_path, names_txt="massaging person's head\nair drumming\n")
    for given in ("names.txt", '["massaging person\'s head", air drumming]'):
        write(tmp_path, data_yaml=f"labels: {given}\nvideos: {{train: mine}}\n")
        assert read_labels(tmp_path) == TWO[::-1]
        assert read(tmp_path) == [
            ("mine/-d_e_000002_000012.mp4", 0, "-d_e"),
            ("mine/abc_000001_000011.mp4", 1, "abc"),
        ]
    write(tmp_path, data_yaml="labels: [massaging, air drumming]\n")
    with pytest.raises(DataError, match="train.csv line 2: unknown label \"massaging person's h"):
        read(tmp_path)


def test_kinetics_with_quoted_columns_is_recognised(tmp_path):
    kinetics(tmp_path)
    listed = tmp_path / "kinetics_train.csv"
    header, rest = listed.read_text().split("\n", 1)
    listed.write_text(",".join(f'"{name}"' for name in header.split(",")) + "\n" + rest)
    assert detect_format(tmp_path) == "kinetics"


def test_half_of_kinetics_may_be_gone(tmp_path):
    rows = [f"{TWO[i % 2]},v{i},0,10,train" for i in range(10)]
    kinetics(tmp_path, rows)
    touch(tmp_path / "train", *(f"v{i}_000000_000010.mp4" for i in range(5)))
    split = load_split(tmp_path, "train", TWO)
    assert [one.group for one in split.segments] == ["v0", "v1", "v2", "v3", "v4"]
    assert [path.name for path in split.skipped] == [
        f"v{i}_000000_000010.mp4" for i in range(5, 10)
    ]
    (tmp_path / "train/v0_000000_000010.mp4").unlink()
    with pytest.raises(DataError, match="6 of 10 clips are missing, at most 50% may"):
        load_split(tmp_path, "train", TWO)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("air drumming,abc,one,11,train", "line 3: a time must be a number, got 'one'"),
        ("air drumming,abc,1,,train", "line 3: a time must be a number, got ''"),
        (",abc,1,11,train", "line 3: the label is empty"),
        ("air drumming,abc,1,11", "line 3 has 5 fields, the header has 6"),
        ("drumming,abc,1,11,train", "train.csv has no clip of air drumming, the other list has"),
    ],
)
def test_wrong_rows_of_kinetics(tmp_path, row, message):
    kinetics(tmp_path, ["massaging person's head,-d_e,2,12,train", row])
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train", TWO)


def test_a_list_without_kinetics_columns_rows_or_classes(tmp_path):
    kinetics(tmp_path, validation=["air drumming,fgh,100,110,validate"])
    with pytest.raises(DataError, match="val.csv has no clip of massaging person's head, the oth"):
        read_labels(tmp_path)
    write(tmp_path, data_yaml="format: kinetics\n", kinetics_val_csv="label,youtube_id,time_end\n")
    with pytest.raises(DataError, match=r"val\.csv line 1 lacks the column 'time_start'"):
        read_labels(tmp_path)
    write(tmp_path, kinetics_val_csv=f"{K400}\n")
    with pytest.raises(DataError, match=r"val\.csv lists no clip"):
        read_labels(tmp_path)


# ---- UCF101

UCF = {
    "classInd_txt": "1 YoYo\n2 Archery\n3 HandstandPushups\n",
    "trainlist01_txt": "YoYo/v_YoYo_g08_c01.avi 1\nArchery/v_Archery_g08_c02.avi 2\n"
    "HandstandPushups/v_HandStandPushups_g09_c01.avi 3\n",
    "testlist01_txt": "Archery/v_Archery_g01_c01.avi\r\nYoYo/v_YoYo_g01_c03.avi\r\n",
    "trainlist02_txt": "Archery/v_Archery_g01_c01.avi 2\nYoYo/v_YoYo_g01_c03.avi 1\n"
    "HandstandPushups/v_HandStandPushups_g09_c01.avi 3\n",
    "testlist02_txt": "Archery/v_Archery_g08_c02.avi\n",
}
UCF_LINES = f"{UCF['trainlist01_txt']}{UCF['testlist01_txt']}".splitlines()
UCF_PATHS = [line.partition(" ")[0] for line in UCF_LINES]


@pytest.mark.parametrize("place", ["", "ucfTrainTestlist__", "annotations__"])
def test_ucf101_counts_classes_from_one(tmp_path, place):
    write(tmp_path, **{place + name: text for name, text in UCF.items()})
    touch(tmp_path / "UCF-101", *UCF_PATHS)
    assert detect_format(tmp_path) == "ucf101"
    assert read_labels(tmp_path) == ("YoYo", "Archery", "HandstandPushups")
    first = [("YoYo/v_YoYo_g08_c01.avi", 0, "v_YoYo_g08"),
             ("Archery/v_Archery_g08_c02.avi", 1, "v_Archery_g08"),
             ("HandstandPushups/v_HandStandPushups_g09_c01.avi", 2, "v_HandStandPushups_g09"),
             ("Archery/v_Archery_g01_c01.avi", 1, "v_Archery_g01"),
             ("YoYo/v_YoYo_g01_c03.avi", 0, "v_YoYo_g01")]  # fmt: skip
    found = [read(tmp_path, name) for name in ("train", "validation")]
    assert found == [
        [(f"UCF-101/{p}", *rest) for p, *rest in part] for part in (first[:3], first[3:])
    ]


def test_ucf101_has_three_splits(tmp_path):
    write(tmp_path, **UCF, data_yaml="split: 2\nvideos: all\n")
    touch(tmp_path / "all", *UCF_PATHS)
    assert [path.rpartition("/")[2] for path in paths(tmp_path)] == [
        "v_Archery_g01_c01.avi",
        "v_YoYo_g01_c03.avi",
        "v_HandStandPushups_g09_c01.avi",
    ]
    assert paths(tmp_path, "validation") == ["all/Archery/v_Archery_g08_c02.avi"]
    write(tmp_path, data_yaml="split: 3\nvideos: all\n")
    with pytest.raises(DataError, match=r"trainlist03\.txt not found; neither there nor in ucfTr"):
        paths(tmp_path)
    write(tmp_path, data_yaml="videos: all\nsplit: 4\n")
    with pytest.raises(DataError, match=r"data\.yaml line 2: split must be 1 or 2 or 3, got 4"):
        paths(tmp_path)
    write(tmp_path, data_yaml="videos: all\n")
    with pytest.raises(DataError, match="UCF101 has no split 'test'"):
        paths(tmp_path, "test")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classInd_txt", "0 YoYo\n1 Archery\n", r"classInd\.txt line 1: expected `1 CLASS`"),
        ("classInd_txt", "1 YoYo\n\n3 Archery\n", r"classInd\.txt line 3: expected `2 CLASS`"),
        ("classInd_txt", "1 YoYo\n2\n", r"classInd\.txt line 2: expected `2 CLASS`.*got '2'"),
        (
            "trainlist01_txt",
            "YoYo/v_YoYo_g08_c01.avi 1\nArchery/v_Archery_g08_c02.avi 1\n",
            r"trainlist01\.txt line 2: Archery is number 2 in classInd\.txt, got 1",
        ),
        (
            "trainlist01_txt",
            "Yoyo/v_YoYo_g08_c01.avi 1\n",
            r"trainlist01\.txt line 1: expected `CLASS/VIDEO`, got 'Yoyo/.*did you mean YoYo",
        ),
        ("trainlist01_txt", "YoYo 1\n", r"trainlist01\.txt line 1: expected `CLASS/VIDEO`, got 'Y"),
    ],
)
def test_wrong_lines_of_ucf101(tmp_path, file, text, message):
    write(tmp_path, **UCF | {file: text})
    touch(tmp_path / "UCF-101", *UCF_PATHS)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train", read_labels(tmp_path))


# ---- lists of TSM, TDN, MMAction2 and their kin


def lists(root, train, validation="v.mp4 1\nv.mp4 0\n", **more):
    write(root, train_list_txt=train, val_list_txt=validation, **more)
    touch(root, "v.mp4")


def test_a_list_of_tsm_counts_frames(tmp_path):
    train = "a/1 4 1\na/22 5 0\n"
    write(tmp_path, train_videofolder_txt=train, val_videofolder_txt="a/3 4 0\n",
          category_txt="Zed\nAlpha\n")  # fmt: skip
    draw(tmp_path / "frames/a/1", "img_{:05d}.jpg", range(1, 9))
    draw(tmp_path / "frames/a/22", "img_{:05d}.jpg", range(1, 6))
    touch(tmp_path, "frames/a/3/")
    assert detect_format(tmp_path) == "lists"
    assert read_labels(tmp_path) == ("Zed", "Alpha")
    assert read(tmp_path) == [("frames/a/1", 1, ""), ("frames/a/22", 0, "")]
    assert read(tmp_path, "validation") == [("frames/a/3", 0, "")]
    # the list says four pictures of eight: 25 a second where nothing else is said
    assert load_split(tmp_path, "train", ("Zed", "Alpha")).lengths_s == pytest.approx([0.16, 0.2])
    assert drawn(tmp_path) == [1, 2, 3, 4]
    write(tmp_path, data_yaml="fps: 10\ntemplate: 'image_{:05d}.jpg'\nclass_order: sorted\n")
    # an empty picture of the other kind would be in the way without the template
    touch(tmp_path / "frames/a/1", "img_00000.jpg")
    for path in (tmp_path / "frames/a/1").glob("img_*[1-9].jpg"):
        path.rename(path.with_name(path.name.replace("img", "image")))
    assert read_labels(tmp_path) == ("Alpha", "Zed")
    assert [label for _, label, _ in read(tmp_path)] == [0, 1]
    assert load_split(tmp_path, "train", ("Zed", "Alpha")).lengths_s == pytest.approx([0.4, 0.5])
    assert drawn(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("train", "validation", "files"),
    [
        ("ssv2_train_list_videos.txt", "ssv2_val_list_videos.txt", "videos/"),
        ("k400_train.csv", "k400_validation.csv", ""),
        ("lists/train.csv", "lists/test.csv", "lists/"),
        ("annotations/Train.txt", "annotations/val.txt", "data/"),
    ],
)
def test_lists_are_found_by_their_names_and_videos_beside_them(tmp_path, train, validation, files):
    for name, text in ((train, "my dir/1.mp4  1\n2.mp4 0\n"), (validation, "3.mp4 1\n4.mp4 0\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    touch(tmp_path / files, "my dir/1.mp4", "2.mp4", "3.mp4", "4.mp4")
    assert detect_format(tmp_path) == "lists"
    assert read_labels(tmp_path) == ("0", "1")
    assert read(tmp_path) == [(f"{files}my dir/1.mp4", 1, ""), (f"{files}2.mp4", 0, "")]
    assert read(tmp_path, "validation") == [(f"{files}3.mp4", 1, ""), (f"{files}4.mp4", 0, "")]
    one = load_split(tmp_path, "train", ("0", "1")).segments[0]
    assert (one.end_s, one.fps, one.template) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("{}.mp4 {}", "{}.mp4"),
        ("{}.mp4\t{}", "{}.mp4"),
        ("{}.mp4,{}", "{}.mp4"),
        ("{}.mp4, {}", "{}.mp4"),
        ("a, b/{}.mp4 , {}", "a, b/{}.mp4"),
        ('"a b/{}.mp4";{}', "a b/{}.mp4"),
        ("a;b/{}.mp4 {}", "a;b/{}.mp4"),
        ("a 5/{} 4 {}", "a 5/{}/"),
        ("{},4,{}", "{}/"),
        ("a b/{} ; 4 ; {}", "a b/{}/"),
        ("{}.mp4 4 {}", "{}.mp4/"),
    ],
)
def test_the_separator_and_the_kind_are_read_off_the_first_line(tmp_path, line, path):
    rows = [line.format(name, number) for name, number in (("x", 1), ("y", 0))]
    lists(tmp_path, "\n".join(rows))
    touch(tmp_path, path.format("x"), path.format("y"))
    folder = path.rstrip("/")
    assert read(tmp_path) == [(folder.format("x"), 1, ""), (folder.format("y"), 0, "")]
    end_s = load_split(tmp_path, "train", ("0", "1")).segments[0].end_s
    assert end_s == (4 / 25 if path.endswith("/") else None)


@pytest.mark.parametrize(
    ("fields", "line", "path", "end_s"),
    [
        ("separator: '|'", "a 1,{}.mp4 | {}", "a 1,{}.mp4", None),
        (r'separator: "\t"', "{}.mp4  {}", "{}.mp4", None),
        ("separator: ','", "{}.mp4 7,{}", "{}.mp4 7/", "kind"),
        ("kind: videos", "clip {} {}", "clip {}", None),
        ("kind: videos", "a 4/{} 4 {}", "a 4/{} 4", None),
        ("kind: rawframes\nfps: 8", "{}.mp4 4 {}", "{}.mp4/", 0.5),
        ("kind: rawframes\nseparator: '::'", "a::{}::4::{}", "a::{}/", 0.16),
    ],
)
def test_the_separator_and_the_kind_may_be_said(tmp_path, fields, line, path, end_s):
    rows = "\n".join(line.format(name, number) for name, number in (("x", 1), ("y", 0)))
    lists(tmp_path, rows, rows, data_yaml=f"{fields}\n")
    touch(tmp_path, path.format("x"), path.format("y"))
    if end_s == "kind":
        # a folder whose name has no video's suffix: the line lacks its number of frames
        with pytest.raises(DataError, match=r"line 1: expected `path num_frames label` separated "):
            read(tmp_path)
        return
    folder = path.rstrip("/")
    assert read(tmp_path) == [(folder.format("x"), 1, ""), (folder.format("y"), 0, "")]
    assert load_split(tmp_path, "train", ("0", "1")).segments[0].end_s == end_s


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            "v.mp4 0\n\na/2 5 1\n",
            "line 3 is `path num_frames label`, line 1 is `path label`: got 'a/2 5 1'; make two",
        ),
        (
            "a/2 5 1\nmy dir/v.mp4 0\n",
            "line 2 is `path label`, line 1 is `path num_frames label`: got 'my dir/v.mp4 0'; make",
        ),
        ("v.mp4,0\na/2,5,1\n", "line 2 is `path num_frames label`, line 1 is `path label`: got"),
        ("a/2 5 1\nv.mp4\n", "line 2: expected `path num_frames label` .*, got 'v.mp4'"),
    ],
)
def test_a_list_of_two_kinds_is_refused_at_its_first_line_of_the_other(tmp_path, train, message):
    lists(tmp_path, train)
    touch(tmp_path, "a/2/", "my dir/v.mp4")
    with pytest.raises(DataError, match=rf"train_list\.txt {message}"):
        read_labels(tmp_path)


def test_who_says_the_kind_may_have_numbers_in_names(tmp_path):
    lists(tmp_path, "v.mp4 0\na/take 5 1\n", data_yaml="kind: videos\n")
    touch(tmp_path, "a/take 5")
    assert read(tmp_path) == [("v.mp4", 0, ""), ("a/take 5", 1, "")]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            "v.mp4 0\nv.mp4 x\n",
            "line 2: expected `path label` separated by white space, .* 'v.mp4 x'",
        ),
        ("v.mp4,0\nv.mp4 1\n", "line 2: expected `path label` separated by ',', .*got 'v.mp4 1'"),
        ("v.mp4 0\nv.mp4 -1\n", "line 2: expected `path label` .* whole numbers from 0"),
        ("v.mp4 0\nv.mp4\n", "line 2: expected `path label` .*got 'v.mp4'"),
        ("v.mp4,0\n ,1\n", "line 2: no path or no frames in ',1'"),
        ("a 5 0\na 0 1\n", "line 2: no path or no frames in 'a 0 1'"),
        ("a 5 0\na 1\n", "line 2: expected `path num_frames label` .*got 'a 1'"),
        ("a 5 0\na 2.5 1\n", "line 2: expected `path num_frames label` .*got 'a 2.5 1'"),
        ("\n \n", "lists no clip"),
    ],
)
def test_wrong_lines_of_lists(tmp_path, train, message):
    lists(tmp_path, train)
    with pytest.raises(DataError, match=rf"train_list\.txt {message}"):
        load_split(tmp_path, "train", read_labels(tmp_path))


def test_lists_that_count_classes_from_one_or_differ(tmp_path):
    lists(tmp_path, "v.mp4 1\nv.mp4 2\n")
    with pytest.raises(DataError, match=r"train_list\.txt has no training clip of 0; add some"):
        load_split(tmp_path, "train", read_labels(tmp_path))
    lists(tmp_path, "v.mp4 1\nv.mp4 0\n", "v.mp4 2\nv.mp4 0\nv.mp4 3\n")
    with pytest.raises(DataError, match=r"val_list\.txt has clips of the classes 2, 3, .*above 1"):
        read_labels(tmp_path)
    write(tmp_path, labels_txt="a\nb\nc\n")
    assert read_labels(tmp_path) == ("a", "b", "c")
    with pytest.raises(
        DataError,
        match=r"val_list\.txt line 3: class 3, but there are names for 3 classes \(0\.\.2",
    ):
        load_split(tmp_path, "validation", ("a", "b", "c"))


def test_lists_may_be_named_and_their_folders_too(tmp_path):
    write(
        tmp_path,
        one_txt="1.mp4 1\n2.mp4 0\n",
        two_txt="3.mp4 0\n",
        three_txt="4.mp4 1\n",
        data_yaml="train: one.txt\nvalidation: two.txt\ntest: three.txt\nlabels: [x, a]\n"
        "videos: {train: t, validation: v}\n",
    )
    touch(tmp_path, "t/1.mp4", "t/2.mp4", "v/3.mp4", "3.mp4", "4.mp4", "t/4.mp4")
    assert detect_format(tmp_path) == "lists"
    assert read_labels(tmp_path) == ("x", "a")
    assert read(tmp_path) == [("t/1.mp4", 1, ""), ("t/2.mp4", 0, "")]
    assert read(tmp_path, "validation") == [("v/3.mp4", 0, "")]
    assert read(tmp_path, "test") == [("4.mp4", 1, "")]
    # no list for it: a part of the training clips
    assert paths(tmp_path, "calibration") == paths(tmp_path)
    write(tmp_path, data_yaml="train: one.txt\nlabels: [x, a]\n")
    with pytest.raises(DataError, match=r"names no list for 'validation'; add `validation: LIST`"):
        load_split(tmp_path, "validation", ("x", "a"))


def test_several_lists_must_be_named(tmp_path):
    lists(tmp_path, "v.mp4 0\nv.mp4 1\n")
    write(tmp_path, train_2_txt="v.mp4 0\n", val_2_txt="v.mp4 0\n", splits__train_3_txt="v.mp4 0\n")
    found = r"\(train_2\.txt, train_list\.txt\); name two in data\.yaml"
    with pytest.raises(DataError, match=f"has several lists or none {found}"):
        read_labels(tmp_path)
    write(tmp_path, data_yaml="format: lists\n")
    for path in tmp_path.glob("train*"):
        path.unlink()
    with pytest.raises(DataError, match=r"has several lists or none \(none\)"):
        read_labels(tmp_path)


# ---- classes that data.yaml changes, whatever the format


def test_classes_are_merged_and_dropped_in_any_format(tmp_path):
    ucf, ssv2_root, listed = (tmp_path / name for name in ("ucf", "ssv2", "listed"))
    write(ucf, **UCF, data_yaml="merge: {Arms: [YoYo, HandstandPushups]}\n")
    touch(ucf / "UCF-101", *UCF_PATHS)
    assert read_labels(ucf) == ("Arms", "Archery")
    assert [label for _, label, _ in read(ucf)] == [0, 1, 0]
    ssv2_root.mkdir()
    ssv2(ssv2_root)
    write(ssv2_root, data_yaml=f"drop: {list(ELEVEN[:9])}\n")
    assert read_labels(ssv2_root) == ELEVEN[9:]
    assert [label for _, label, _ in read(ssv2_root)] == [1, 0]
    lists(listed, "v.mp4 2\nv.mp4 0\nv.mp4 1\n",
          data_yaml='merge: {both: ["0", "2"]}\n')  # fmt: skip
    assert read_labels(listed) == ("both", "1")
    assert [label for _, label, _ in read(listed)] == [0, 0, 1]
    write(listed, data_yaml="drop: ['7']\n")
    with pytest.raises(DataError, match=r"data\.yaml line 1: drop names the class '7'; known are"):
        read_labels(listed)


# ---- missing files, whatever the format


def many_ssv1(root, clips):
    names = {"1": "a", "0": "b"}
    text = "".join(f"{i};{names[str(i % 2)]}\n" for i in range(200))
    for name, lines in (("labels", "a\nb\n"), ("train", text)):
        (root / f"something-something-v1-{name}.csv").write_text(lines)
    return [f"20bn-something-something-v1/{i}/" for i in clips]


def many_ssv2(root, clips):
    entries = [{"id": str(i), "template": f"Moving [something] {i % 2}"} for i in range(200)]
    labels = {f"Moving something {k}": str(k) for k in (0, 1)}
    for name, values in (("labels", labels), ("train", entries)):
        (root / f"{name}.json").write_text(json.dumps(values))
    return [f"videos/{i}.webm" for i in clips]


def many_ucf101(root, clips):
    names = [f"{'ab'[i % 2]}/v_g{i:03d}_c01.avi" for i in range(200)]
    write(root, classInd_txt="1 a\n2 b\n", trainlist01_txt="\n".join(names))
    return [f"UCF-101/{names[i]}" for i in clips]


def many_videos(root, clips):
    text = "".join(f"{i}.mp4 {i % 2}\n" for i in range(200))
    write(root, train_txt=text, val_txt=text)
    return [f"{i}.mp4" for i in clips]


def many_frames(root, clips):
    text = "".join(f"{i} 9 {i % 2}\n" for i in range(200))
    write(root, train_txt=text, val_txt=text)
    return [f"frames/{i}/" for i in clips]


def many_segments(root, clips):
    rows = [f"{i}.mp4,0,1,{'ab'[i % 2]},train" for i in range(200)]
    write(root, segments_csv="\n".join(["path,start_s,end_s,label,split", *rows]))
    return [f"{i}.mp4" for i in clips]


@pytest.mark.parametrize(
    "make", [many_ssv1, many_ssv2, many_ucf101, many_videos, many_frames, many_segments]
)
def test_missing_files_are_counted_left_out_and_limited(tmp_path, make):
    names = make(tmp_path, [i for i in range(200) if i not in (17, 100)])
    touch(tmp_path, *names)
    split = load_split(tmp_path, "train", read_labels(tmp_path))
    found = [one.path.relative_to(tmp_path).as_posix() for one in split.segments]
    assert found == [name.rstrip("/") for name in names]
    assert {path.name.split("_")[1 if "_" in path.name else 0] for path in split.skipped} in (
        {"17", "100"}, {"17.webm", "100.webm"}, {"17.mp4", "100.mp4"}, {"g017", "g100"}
    )  # fmt: skip
    gone = tmp_path / names[0]
    gone.rmdir() if names[0].endswith("/") else gone.unlink()
    with pytest.raises(
        DataError, match=r"names 3 files that are not there.*3 of 200 clips are mis"
    ):
        load_split(tmp_path, "train", read_labels(tmp_path))
    write(tmp_path, data_yaml="max_missing: 0.015\n")
    assert len(load_split(tmp_path, "train", read_labels(tmp_path)).skipped) == 3


# ---- recordings with one list of segments


def recordings(root, *rows, header="path,start_s,end_s,label,split,motion", **more):
    write(root, segments_csv="\n".join([header, *rows, ""]), **more)
    touch(root, *{row.split(",")[0] for row in rows})


WALKS = (
    "a.mp4,0,1,walk,train,0.2",
    "a.mp4,1,2,walk,train,0.6",
    "a.mp4,2,3,walk,train,0.7",
    "a.mp4,3,4,walk,train,0.9",
    "a.mp4,4,5,sit,train,0.1",
    "b.mp4,0,1,walk,val,0.8",
    "b.mp4,1,2,walk,val,0.5",
    "c.mp4,1,2,sit,test,0.5",
)


def starts(data, split="train"):
    labels = read_labels(data)
    return [(labels[one.label], one.start_s) for one in load_split(data, split, labels).segments]


@pytest.mark.parametrize(
    ("bounds", "kept", "held_out"),
    [
        ("above: 0.6", [2, 3], [0]),
        ("above: 0.6, below: 0.9", [2], [0]),
        ("below: 0.7", [0, 1], [1]),
    ],
)
def test_a_filter_keeps_a_range_of_one_class(tmp_path, bounds, kept, held_out):
    rule = f"filter:\n  - {{label: walk, column: motion, {bounds}}}\n"
    recordings(tmp_path, *WALKS, data_yaml=rule)
    assert detect_format(tmp_path) == "segments"
    assert read_labels(tmp_path) == ("sit", "walk")
    assert starts(tmp_path) == [*(("walk", start) for start in kept), ("sit", 4)]
    assert starts(tmp_path, "validation") == [("walk", start) for start in held_out]
    assert starts(tmp_path, "test") == [("sit", 1)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "{label: wlak, column: motion, above: 0}",
            "yaml line 1: filter names the class 'wlak'; did you mean w",
        ),
        (
            "{label: walk, column: moton, above: 0}",
            "yaml line 1: filter names the column 'moton'; did you mean",
        ),
        (
            "{label: walk, column: split, above: 0}",
            "csv line 2: split must be a number, got 'train'",
        ),
        ("{label: walk, column: motion}", r"yaml line 1: a filter of 'walk' needs above or below"),
        ("{label: walk, above: 1}", "yaml line 1: filter needs column, got"),
        ("{label: walk, column: motion, above: 2, below: 1}", "yaml line 1: above must be < below"),
        (
            "{label: walk, column: motion, over: 1}",
            "filter has an unknown field 'over'; did you mean above",
        ),
    ],
)
def test_wrong_filters(tmp_path, rule, message):
    recordings(tmp_path, *WALKS, data_yaml=f"filter: [{rule}]\n")
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train", ("walk", "sit"))


def test_the_order_of_classes_of_recordings(tmp_path):
    recordings(tmp_path, *WALKS)
    assert read_labels(tmp_path) == ("sit", "walk")
    write(tmp_path, data_yaml="class_order: file\n")
    assert read_labels(tmp_path) == ("walk", "sit")
    assert [one[1] for one in read(tmp_path)] == [0, 0, 0, 0, 1]
    write(tmp_path, labels_txt="walk\nsit\n", data_yaml="class_order: sorted\nbackground: true\n")
    assert read_labels(tmp_path) == ("sit", "walk", "background")
    write(tmp_path, labels_txt="walk\nbackground\nsit\n", data_yaml="background: true\n")
    assert read_labels(tmp_path) == ("walk", "background", "sit")
    write(tmp_path, labels_txt="walk\nsits\n", data_yaml="")
    with pytest.raises(DataError, match=r"segments\.csv line 6: unknown label 'sit'; did you mean"):
        read(tmp_path)


def test_background_is_what_no_segment_is_near(tmp_path):
    """Five seconds of video: gaps 0..1.5 and 2.5..5 before and after a segment."""
    rows = ["a.mp4,1.5,2.5,wave,train,1", "b.mp4,4.5,4.6,rest,val,9", "b.mp4,0.5,2.5,wave,val,1"]
    recordings(tmp_path, *rows, "a.mp4,1.6,2.4,rest,train,1")
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        small_data.write(tmp_path / name, seed)

    def pieces(fields, split, labels=("rest", "wave", "background")):
        write(tmp_path, data_yaml=f"background: {fields}\n")
        assert read_labels(tmp_path) == labels
        found = load_split(tmp_path, split, labels, every_class=False).segments
        return [
            (round(s.start_s, 3), round(s.end_s or 0, 3))
            for s in found
            if labels[s.label] == "background"
        ]

    assert pieces("true", "train") == [(0, 1), (3, 5)]
    assert pieces("{guard_s: 0.25, min_s: 1.5}", "train") == [(2.75, 5)]
    assert pieces("{guard_s: 0, piece_s: 1.0}", "train") == [
        *((0, 0.75), (0.75, 1.5)), *((2.5, 3.333), (3.333, 4.167), (4.167, 5.0)),
    ]  # fmt: skip
    assert pieces("true", "validation") == [(3, 4)]
    # what is filtered out or dropped is not asked for, but it is no gap either
    rule = "true\nfilter: [{label: rest, column: motion, below: 5}]"
    assert pieces(rule, "validation") == [(3, 4)]
    assert pieces("true\ndrop: [rest]", "validation", ("wave", "background")) == [(3, 4)]
    assert pieces("true\ndrop: [background]", "train", ("rest", "wave")) == []
    # live tapes have their gaps in one piece
    write(tmp_path, data_yaml="background: {guard_s: 0, piece_s: 1.0}\n")
    ((video, truth),) = load_tapes(tmp_path, "tape_validation", read_labels(tmp_path))
    assert video.name == "b.mp4"
    assert [(s.label, s.start_s, s.end_s) for s in truth] == [
        ("wave", 0.5, 2.5),
        ("background", 2.5, 4.5),
        ("rest", 4.5, 4.6),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a.mp4,2,1,walk,train,1",
            r"segments\.csv line 3: end_s must be after start_s 2\.0, got 1",
        ),
        ("a.mp4,0,1,walk,trian,1", r"segments\.csv line 3: unknown split 'trian'; did you mean tr"),
        ("a.mp4,0,1,walk,val,1", r"line 3: a\.mp4 is in train and in validation; pieces of one"),
        ("a.mp4,0,1,walk,train", r"segments\.csv line 3 has 5 fields, the header has 6"),
    ],
)
def test_wrong_rows_of_recordings(tmp_path, row, message):
    recordings(tmp_path, WALKS[0], row)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train", ("walk", "sit"))


def kitchen(root, folders):
    """Ten recordings of two to seven clips, both classes in each: 40 clips."""
    rows, names = [], []
    for r in range(10):
        for k in range(r % 5 + 2 + (r >= 5) * (r % 2)):
            rows.append(f"r{r}.mp4,{k},{k + 1},{'ab'[k % 2]}")
            names.append(f"{'ab'[k % 2]}/r{r}_{k:04d}.mp4")
    if folders:
        touch(root, *names)
    else:
        recordings(root, *rows, header="path,start_s,end_s,label")
    return len(rows)


@pytest.mark.parametrize("folders", [False, True], ids=["segments", "folders"])
def test_whole_recordings_validate_and_always_the_same(tmp_path, folders):
    number = kitchen(tmp_path, folders)

    def parts(fields):
        write(tmp_path, data_yaml=fields)
        found = [load_split(tmp_path, n, ("a", "b")).segments for n in ("train", "validation")]
        train, validation = ({one.group for one in part} for part in found)
        assert not train & validation, "a recording is in both"
        assert len(train | validation) == 10
        assert sum(map(len, found)) == number
        assert {one.label for one in found[1]} == {0, 1}
        return sorted(validation), len(found[1]) / number

    plain, share = parts("")
    assert share == pytest.approx(0.2, abs=0.05)
    assert parts("") == parts("validation_share: 0.2\nseed: 0\n") == (plain, share)
    assert parts("validation_share: 0.5\n")[1] == pytest.approx(0.5, abs=0.05)
    assert len({tuple(parts(f"seed: {seed}\n")[0]) for seed in range(5)}) > 1
    with pytest.raises(DataError, match=r"line 1: validation_share must be in \(0, 1\), got 1"):
        parts("validation_share: 1\n")


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
def test_few_recordings_are_in_both_parts(tmp_path, number, share):
    names = [f"r{n}.mp4" for n in range(number)]
    touch(tmp_path, *names)
    rows = [f"{name},{i},{i + 1},{'ab'[i % 2]}" for name in names for i in range(6)]
    recordings(tmp_path, *rows, header="path,start_s,end_s,label")
    write(tmp_path, data_yaml=f"validation_share: {share}\n")
    train, validation = (
        {one.group for one in load_split(tmp_path, part, ("a", "b")).segments}
        for part in ("train", "validation")
    )
    assert train
    assert validation
    assert not train & validation
    assert len(train | validation) == number


def test_one_recording_cannot_both_train_and_validate(tmp_path):
    recordings(tmp_path, "a.mp4,0,1,walk", "a.mp4,2,3,sit", "b.mp4,2,3,rest",
               header="path,start_s,end_s,label", data_yaml="drop: [rest]\n")  # fmt: skip
    with pytest.raises(DataError, match=r"segments\.csv holds 1 recordings; .* at least two are"):
        load_split(tmp_path, "train", ("sit", "walk"))


# ---- data.yaml


def test_every_field_is_read_and_written_back(tmp_path):
    text = """
root: clips
format: segments
videos: {train: t, validation: v}
labels: [a, "no"]
class_order: sorted
fps: 12
template: img_{:05d}.jpg
max_missing: 0.05
merge: {lie: [fall, sleep]}
drop: [rest]
train: train.txt
test: test.txt
separator: ","
kind: videos
split: 3
segments: all.csv
filter: [{label: walk, column: motion, above: 1e-1}]
background: {guard_s: 0, piece_s: 5}
validation_share: 0.3
seed: 7
folds: folds.csv
fold: 2
"""
    (tmp_path / "clips").mkdir()
    write(tmp_path, my_yaml=text)
    spec = read_spec(tmp_path / "my.yaml")
    assert spec == DataSpec(
        root=tmp_path / "clips",
        source=tmp_path / "my.yaml",
        format="segments",
        videos={"train": "t", "validation": "v"},
        labels=("a", "no"),
        class_order="sorted",
        fps=12.0,
        template="img_{:05d}.jpg",
        max_missing=0.05,
        merge={"lie": ("fall", "sleep")},
        drop=("rest",),
        lists={"train": "train.txt", "test": "test.txt"},
        separator=",",
        kind="videos",
        split=3,
        segments="all.csv",
        filter=(Filter("walk", "motion", above=0.1),),
        background=Background(guard_s=0.0, min_s=1.0, piece_s=5.0),
        validation_share=0.3,
        seed=7,
        folds=tmp_path / "folds.csv",
        fold=2,
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    write_spec(other / "copy.yaml", spec)
    assert read_spec(other / "copy.yaml") == replace(spec, source=other / "copy.yaml")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("separater: ','", "unknown field 'separater'; did you mean separator"),
        ("separator: 1", "separator must be text, got 1"),
        ("kind: frames", "kind must be videos or rawframes, got 'frames'"),
        ("class_order: name", "class_order must be file or sorted, got 'name'"),
        ("fps: 0", "fps must be > 0, got 0"),
        ("fps: fast", "fps must be a number, got 'fast'"),
        ("max_missing: 1", r"max_missing must be in \[0, 1\), got 1"),
        ("validation_share: 0", r"validation_share must be in \(0, 1\), got 0"),
        ("validation_share: true", "validation_share must be a number, got True"),
        ("seed: 1.5", "seed must be a whole number, got 1.5"),
        ("split: 0", "split must be 1 or 2 or 3, got 0"),
        ("drop: rest", "drop must be a list of names, got 'rest'"),
        ("drop: [no]", "drop: put quotes around a name that YAML reads as False"),
        ("merge: [a, b]", r"merge must be {new name: \[old names\]}, got \['a', 'b'\]"),
        ("merge: {x: [a], y: [b, a]}", "merge names 'a' twice"),
        ("videos: {val: v}", "videos names the split 'val'; known are train, validation"),
        ("background: {guard: 1}", "background has an unknown field 'guard'; did you mean guard_s"),
        ("background: {guard_s: -1}", "guard_s must be >= 0, got -1"),
        ("background: {min_s: 0}", "min_s must be > 0, got 0"),
        ("background: {piece_s: 0.5}", "piece_s must be >= min_s 1.0, got 0.5"),
        ("background: 3", r"background must be {guard_s, min_s, piece_s}, got 3"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path, field, message):
    write(tmp_path, data_yaml=f"# mine\nroot: .\n{field}\n")
    with pytest.raises(DataError, match=rf"data\.yaml line 3: {message}"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("ucf101", "class_order: sorted"),
        ("ucf101", "labels: names.txt"),
        ("kinetics", "class_order: file"),
        ("kinetics", "fps: 12"),
        ("something_v1", "labels: names.txt"),
        ("something_v2", "separator: ','"),
        ("jester", "split: 2"),
        ("lists", "segments: all.csv"),
        ("lists", "background: true"),
        ("folders", "filter: [{label: a, column: b, above: 1}]"),
        ("segments", "kind: videos"),
        ("jester", "validation_share: 0.1"),
    ],
)
def test_a_field_that_the_format_would_ignore_is_refused(tmp_path, name, field):
    write(tmp_path, data_yaml=f"format: {name}\n{field}\n")
    shown = field.partition(":")[0]
    with pytest.raises(
        DataError, match=f"line 2: {shown} means nothing to data of the format {name}; it "
    ):
        detect_format(tmp_path)
