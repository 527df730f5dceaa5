"""What the gate measures on: balanced clips of the list, and every tape that `evaluate` takes."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

import export.held_out
import train.live_evaluation
from export.calibration_clips import gate_parts
from export.held_out import (
    MOST_GATED,
    HeldOut,
    balanced,
    held_out_clips,
    layer_clips,
    live_loss,
    validation_tapes,
)
from export.int8.quantise import LabelledClips
from export.int8.sensitivity import PASSES
from train.checkpoint import load_checkpoint
from train.data.arrow_of_time import LABELS
from train.data.catalog import load_tape
from train.evaluate import load_clips


@pytest.fixture(scope="module")
def facts(checkpoint):
    return load_checkpoint(checkpoint)[1]


def test_classes_equally_the_same_every_time():
    label = [0] * 50 + [1] * 3 + [2] * 50
    found = balanced(label, 15)
    assert found == sorted(set(found)) == balanced(label, 15)
    assert Counter(label[i] for i in found) == {0: 6, 1: 3, 2: 6}
    assert found[:6] != list(range(6))  # not simply the first ones
    assert balanced(label, MOST_GATED) == list(range(103))


def test_all_clips_are_those_of_the_evaluation(data, facts):
    found = held_out_clips(data, facts)
    expected = load_clips(data, "validation", facts)
    assert np.array_equal(found.clips.pictures, expected.pictures.permute(0, 1, 3, 4, 2).numpy())
    assert found.clips.label.tolist() == expected.label.tolist()
    assert (found.numbers, found.listed) == (tuple(range(1, 14)), 13)
    assert found.clips.pictures.flags.owndata  # no second copy behind it


def test_fewer_clips_keep_their_numbers(data, facts):
    every, found = held_out_clips(data, facts), held_out_clips(data, facts, 5)
    assert (len(found.numbers), found.listed) == (5, 13)
    at = np.array(found.numbers) - 1
    assert np.array_equal(found.clips.pictures, every.clips.pictures[at])
    assert np.array_equal(found.clips.label, every.clips.label[at])


def test_layers_are_measured_on_what_a_minute_allows(facts, monkeypatch):
    label = np.arange(200) % 4
    pictures = np.zeros((200, 8, 1, 1, 3), np.uint8)
    held_out = HeldOut(LabelledClips(pictures, label), tuple(range(200)), 200)
    some = layer_clips(held_out, facts)
    assert some is not None
    assert Counter(some.label.tolist()) == dict.fromkeys(range(4), 25)
    clip = PASSES * facts.cost().clip_macs
    monkeypatch.setattr(export.held_out, "LAYER_MACS", 40.5 * clip)
    few = layer_clips(held_out, facts)
    assert few is not None
    assert len(few.label) == len(few.pictures) == 40
    monkeypatch.setattr(export.held_out, "LAYER_MACS", 29.5 * clip)
    assert layer_clips(held_out, facts) is None
    # a small validation split is taken whole, as it is all there is
    small = LabelledClips(pictures[:12], label[:12])
    some = layer_clips(HeldOut(small, tuple(range(12)), 12), facts)
    assert some is not None
    assert len(some.label) == 12


# --- tapes


def test_two_videos_are_judged_one_after_the_other(built, data, tmp_path, monkeypatch):
    """Twice the same video: everything counts twice, so no state goes from one to the next."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    tape = folder / "tape_validation"
    (row, _) = load_tape(folder, "tape_validation", LABELS)
    shutil.copy(row, tape / "again.mp4")
    head, *rows = (tape / "tape.csv").read_text().splitlines()
    rows += [line.replace(row.name, "again.mp4") for line in rows]
    (tape / "tape.csv").write_text("\n".join([head, *rows]) + "\n")
    bars = []

    def bar(steps, **said):
        bars.append(said["desc"])
        return steps

    monkeypatch.setattr(train.live_evaluation, "tqdm", bar)
    one, two = (live_loss(built.bundle, validation_tapes(each, LABELS)) for each in (data, folder))
    assert (one.count, two.count) == (6, 12)
    assert (two.lost, two.gained) == (2 * one.lost, 2 * one.gained)
    assert two.top1_float == one.top1_float
    assert ["int8" in title for title in bars] == [False, True, False, False, True, True]


def test_no_tape(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("tape*"))
    assert validation_tapes(tmp_path / "data", LABELS) == []


def test_untrimmed_recordings_have_tapes_without_a_folder(data, facts, tmp_path):
    """Their validation recordings are the tapes, through a data.yaml too."""
    folder = tmp_path / "data"
    folder.mkdir()
    video, truth = load_tape(data, "tape_validation", LABELS)
    rows = []
    for split, names in (("train", ("a", "b")), ("validation", ("c", "d"))):
        for name in names:
            shutil.copy(video, folder / f"{name}.mp4")
            rows += [
                f"{name}.mp4,{s.start_s},{s.end_s},{label},{split}"
                for s, label in zip(truth, LABELS, strict=False)
            ]
    lines = ["path,start_s,end_s,label,split", *rows]
    (folder / "segments.csv").write_text("\n".join(lines) + "\n")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"root: {folder}\nformat: segments\n")
    for given in (folder, yaml):
        tapes = validation_tapes(given, LABELS)
        assert [(path.name, len(actions)) for path, actions in tapes] == [
            ("c.mp4", 6),
            ("d.mp4", 6),
        ]
        taped = {part.path.name for part in gate_parts(given, facts) if "tape" in part.what}
        assert taped == {"c.mp4", "d.mp4"}
