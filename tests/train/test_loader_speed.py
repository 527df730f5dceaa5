import time

import numpy as np
import pytest

from train.data.clips import ArrayClipSet, ClipRule, KeptClips
from train.data.loader import clip_loader
from train.loader_speed import LoaderSpeed, Speed, main, measure
from train.recipe_file import RECIPE_FOLDER

RULE = ClipRule(4, 0.5, "segments")


class SlowClips(KeptClips):
    """Clips that take a while each."""

    def __init__(self, clips, clip_s):
        super().__init__(clips)
        self.clip_s = clip_s
        self.keys = []

    def __getitem__(self, key):
        self.keys.append(key)
        time.sleep(self.clip_s)
        return super().__getitem__(key)


def loader_of(clip_s, workers=0, num_clips=12):
    frames = np.zeros((1, 4, 8, 8, 3), np.uint8)
    clips = ArrayClipSet(frames, np.ones(1), [(0, False, 0)] * num_clips, RULE)
    slow = SlowClips(clips, clip_s)
    return clip_loader(slow, batch_size=4, shuffle=True, seed=0, workers=workers)


@pytest.mark.parametrize(
    ("clip_s", "step_s", "words"),
    [
        (0.010, 0.020, "the loader starves the training step: it gives"),
        (0.004, 0.032, "the training step is the limit: the loader could feed"),
    ],
)
def test_the_slower_of_the_two_is_named(clip_s, step_s, words):
    steps = []

    def step(batch):
        steps.append(len(batch[1]))
        time.sleep(step_s)

    speed = measure(loader_of(clip_s), step, num_batches=4, rounds=3)
    assert speed.loader.median < 1 / clip_s
    assert speed.step.median < 4 / step_s
    assert speed.both.median < min(speed.loader.median, speed.step.median), "one process: in turn"
    assert words in speed.table()
    assert steps == [4] * len(steps)
    assert len(speed.loader.rounds) == len(speed.step.rounds) == len(speed.both.rounds) == 3


def test_batches_that_workers_had_ready_are_not_counted():
    """They were loaded while nobody looked: one worker gives 66 clips/s and no more."""
    loader = loader_of(0.015, workers=1, num_clips=400)
    speed = measure(loader, lambda batch: time.sleep(0.1), num_batches=2, rounds=3)
    assert speed.loader.median < 67
    assert speed.step.median < 40.1
    assert speed.both.median > 0.8 * speed.step.median, "loading and training overlap"


def test_what_workers_loaded_during_the_steps_is_not_counted():
    loader = loader_of(0.015, workers=1, num_clips=400)
    speed = measure(loader, lambda batch: time.sleep(0.05), num_batches=2, rounds=1)
    assert speed.both.median < 67


@pytest.mark.parametrize(("workers", "expected"), [(0, 3), (1, 3), (2, 4)])
def test_a_round_is_whole_turns_of_the_workers(workers, expected):
    steps: list[object] = []
    loader = loader_of(0.0, workers=workers)
    speed = measure(loader, steps.append, num_batches=3, rounds=1)
    assert (speed.num_batches, speed.num_workers) == (expected, workers)
    assert len(steps) == 2 * expected + (1 if workers == 0 else 2)


def test_epochs_follow_each_other_as_in_training():
    loader = loader_of(0.0)
    measure(loader, lambda batch: None, num_batches=5, rounds=1)
    epochs = [epoch for epoch, _ in loader.dataset.clips.keys]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2, 3}, "12 batches, 3 an epoch"


def test_the_table_holds_medians_and_their_spread():
    speed = LoaderSpeed(
        Speed((90.0, 100.0, 400.0)), Speed((200.0,) * 3), Speed((95.0, 96.0, 97.0)), 8, 2
    )
    lines = speed.table().splitlines()
    assert lines[0].split() == ["clips/s", "slowest", "fastest"]
    assert [line.split()[-3:] for line in lines[1:4]] == [
        ["100.0", "90.0", "400.0"],
        ["200.0", "200.0", "200.0"],
        ["96.0", "95.0", "97.0"],
    ]
    assert lines[4].startswith("the loader starves the training step: it gives 50% of")


@pytest.mark.parametrize(("num_batches", "rounds"), [(0, 1), (1, 0)])
def test_no_batches_or_rounds_are_refused(num_batches, rounds):
    with pytest.raises(ValueError, match="batches and rounds must be >= 1, got"):
        measure(loader_of(0), lambda batch: None, num_batches=num_batches, rounds=rounds)


def test_the_command_measures_a_recipe_on_its_data(tiny_data, tmp_path, capsys):
    recipe = tmp_path / "small.yaml"
    text = (RECIPE_FOLDER / "demo.yaml").read_text()
    recipe.write_text(text.replace("_px: 48", "_px: 32").replace("batch_size: 32", "batch_size: 8"))
    main(["--recipe", str(recipe), "--data", str(tiny_data), "--batches", "1", "--workers", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "batches of 8 × 8 frames 32×32, 1 workers" in lines[0]
    numbers = [float(line.split()[-3]) for line in lines[2:5]]
    assert all(number > 0 for number in numbers)
    assert [line.split()[0] for line in lines[2:5]] == ["loader", "step", "both"]
