from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import DataError
from train.data.entry import VideoSegment
from train.data.folds import grouped_folds, grouped_split, read_folds, write_folds


def segments(recordings):
    """Segments of recordings: number of clips of each class by recording."""
    return [
        VideoSegment(Path(f"/data/{name}.mp4"), i, i + 1, label, group=name)
        for name, counts in recordings.items()
        for label, count in enumerate(counts)
        for i in range(count)
    ]


def table(found, folds, num_folds, num_classes):
    counts = np.zeros((num_folds, num_classes), int)
    for segment in found:
        counts[folds[segment.path], segment.label] += 1
    return counts


def test_recordings_stay_whole_and_classes_are_balanced():
    rng = np.random.default_rng(3)
    found = segments({f"r{i}": rng.integers(0, 6, 3) for i in range(30)})
    folds = grouped_folds(found, 5, seed=1)
    assert set(folds) == {segment.path for segment in found}
    counts = table(found, folds, 5, 3)
    ideal = counts.sum(0) / 5
    assert np.all(np.abs(counts - ideal) <= 0.12 * ideal + 1)


def test_a_balance_that_exists_is_found():
    # two kinds of recordings: only a fold with one of each is balanced
    found = segments({**{f"a{i}": (4, 0) for i in range(4)}, **{f"b{i}": (0, 3) for i in range(4)}})
    counts = table(found, grouped_folds(found, 4), 4, 2)
    assert counts.tolist() == [[4, 3]] * 4
    # greedy alone would put the two largest into different folds
    found = segments({"a": (6,), "b": (5,), "c": (4,), "d": (3,), "e": (2,), "f": (2,)})
    assert table(found, grouped_folds(found, 2), 2, 1).tolist() == [[11], [11]]


def test_a_rare_class_is_in_every_fold_it_can_be_in():
    found = segments({f"r{i}": (10, 2 if i in (0, 1) else 0) for i in range(8)})
    counts = table(found, grouped_folds(found, 2), 2, 2)
    assert counts[:, 1].tolist() == [2, 2]


def test_the_same_seed_gives_the_same_folds_and_another_may_not():
    found = segments({f"r{i}": (2, 2) for i in range(12)})
    assert grouped_folds(found, 3, seed=5) == grouped_folds(found, 3, seed=5)
    assert any(grouped_folds(found, 3, seed=5) != grouped_folds(found, 3, seed=s) for s in range(5))


def test_sessions_of_several_files_stay_together():
    found = [VideoSegment(Path(f"/{i}.mp4"), 0, None, i % 2, group=f"s{i // 4}") for i in range(24)]
    folds = grouped_folds(found, 3)
    for i in range(0, 24, 4):
        assert len({folds[Path(f"/{j}.mp4")] for j in range(i, i + 4)}) == 1


def test_clips_without_a_group_are_their_own():
    found = [VideoSegment(Path(f"/{i}.mp4"), 0, None, i % 3) for i in range(30)]
    counts = table(found, grouped_folds(found, 5), 5, 3)
    assert counts.tolist() == [[2, 2, 2]] * 5


def test_too_few_recordings_or_folds_are_refused():
    found = segments({"a": (3, 3), "b": (3, 3)})
    with pytest.raises(DataError, match="2 recordings are too few for 3 folds"):
        grouped_folds(found, 3)
    with pytest.raises(ValueError, match="num_folds must be >= 2, got 1"):
        grouped_folds(found, 1)


def test_shares_are_kept_class_by_class():
    labels = ["a"] * 50 + ["b"] * 20 + ["c"] * 3
    groups = [str(i) for i in range(73)]
    part = grouped_split(labels, groups, [0.8, 0.2], seed=0)
    counts = [[0, 0, 0], [0, 0, 0]]
    for label, group in zip(labels, groups, strict=True):
        counts[part[group]]["abc".index(label)] += 1
    assert counts == [[40, 16, 2], [10, 4, 1]]


def test_a_class_of_one_recording_trains():
    labels = ["a"] * 12 + ["b"] * 2
    groups = [str(i // 3) for i in range(12)] + ["0", "0"]
    for seed in range(5):
        part = grouped_split(labels, groups, [0.75, 0.25], seed)
        assert part["0"] == 0
        assert sorted(part.values()) == [0, 0, 0, 1]
    assert grouped_split(["x", "y", "y"], ["1", "2", "3"], [0.8, 0.2], 0)["1"] == 0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=40),
    st.integers(2, 4),
    st.integers(0, 3),
)
def test_every_group_gets_one_part(clips, num_parts, seed):
    labels, groups = [c for c, _ in clips], [str(g) for _, g in clips]
    shares = [1 / num_parts] * num_parts
    part = grouped_split(labels, groups, shares, seed)
    assert set(part) == set(groups)
    assert set(part.values()) <= set(range(num_parts))
    assert part == grouped_split(labels, groups, shares, seed)


def test_folds_are_written_and_read(tmp_path):
    folds = {tmp_path / "videos" / "a, b.mp4": 1, tmp_path / "c.mp4": 0, Path("/far/d.mp4"): 2}
    path = tmp_path / "out" / "folds.csv"
    write_folds(path, folds, tmp_path)
    assert path.read_text().splitlines()[0] == "path,fold"
    assert "\nc.mp4,0\n" in path.read_text()
    assert read_folds(path, tmp_path) == folds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,fold\na.mp4,x\n", "line 2: fold must be a number 0, 1, …, got 'x'"),
        ("path,fold\na.mp4,-1\n", "line 2: fold must be a number"),
        ("path,fold\na.mp4,0\na.mp4,1\n", "line 3: the path 'a.mp4' is empty or there twice"),
        ("path,fold\n,0\n", "line 2: the path '' is empty"),
        ("path,fold\n", "lists no recording"),
        ("path;fold\na;0\n", "lacks the column 'path'"),
    ],
)
def test_wrong_folds_are_named(tmp_path, text, message):
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_folds(path, tmp_path)
