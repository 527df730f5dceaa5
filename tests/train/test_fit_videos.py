"""The worst data and starting points that people bring, through a whole run on real videos."""

import pickle
import shutil
from functools import partial

import pytest
import torch

from runtime.command import run_command
from tests.train.models import UNITS, facts_of_model, lively_model, write_checkpoint
from tests.videos import drifting_pattern, moving_bar, write_video
from train.checkpoint import load_checkpoint
from train.fit import main
from train.run_checkpoints import BEST

FIELDS = ("height_px=32", "width_px=32", "num_segments=4", "epochs=1", "batch_size=4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of short recordings, as a folder a class."""
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 6), ("validation", 2)):
        for label, make in (("bar", moving_bar), ("drift", drifting_pattern)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                # the shortest has fewer frames than the model sees
                write_video(folder / f"{number}.mp4", make(2 + 4 * number, 32, 48))
    return root


def argv_of(data, run, *fields):
    chosen = [f"--set={field}" for field in (*FIELDS, "backbone=tiny", *fields)]
    return ["--data", str(data), "--out", str(run), "--accelerator=cpu", *chosen]


def own_data(folder, videos, rows):
    """Our own format: `rows` of the training list beside those of `videos`."""
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        lines = [
            f"{path.resolve()},0,{0.04 * (2 + 4 * int(path.stem)):.2f},{path.parent.name}"
            for path in sorted((videos / split).rglob("*.mp4"))
        ]
        lines += rows if split == "train" else []
        text = "\n".join(["path,start_s,end_s,label", *lines])
        (folder / split / "segments.csv").write_text(text)
    (folder / "labels.txt").write_text("bar\ndrift\n")
    return folder


def test_short_recordings_in_folders_train(videos, tmp_path, capsys):
    assert run_command(lambda: main([*argv_of(videos, tmp_path), "--set=class_weights=true"])) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("best checkpoint ")
    assert load_checkpoint(tmp_path / "checkpoint" / BEST)[1].labels == ("bar", "drift")
    assert not (tmp_path / "broken.txt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_few_broken_and_missing_recordings_are_listed_and_counted(
    videos, tmp_path, capsys, workers
):
    """One of 400 clips cannot be read, one is not there: both less than 1 %."""
    whole = (videos / "train" / "bar" / "5.mp4").resolve()
    broken, gone = tmp_path / "broken.mp4", tmp_path / "gone.mp4"
    broken.write_bytes(whole.read_bytes()[:300])
    rows = [f"{whole},0,0.88,bar"] * 400
    rows[50], rows[90] = f"{broken},0,0.88,bar", f"{gone},0,0.88,drift"
    data = own_data(tmp_path / "data", videos, rows)
    (data / "data.yaml").write_text("format: own\nmax_missing: 0.01\n")
    run = tmp_path / "run"
    argv = argv_of(data / "data.yaml", run, "batch_size=64", f"workers={workers}")
    assert run_command(lambda: main(argv)) == 0, capsys.readouterr().err
    lines = (run / "broken.txt").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] == f"{gone} is not there; its clips are left out"
    assert str(broken) in lines[1]
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == f"2 recordings or clips were left out, see {run / 'broken.txt'}"


def broken_clips(videos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    (data / "train" / "bar" / "4.mp4").write_bytes(b"no video")
    return data, "1 of 12 clips cannot be read, at most 1% may; mend or remove them"


def missing_class(videos, tmp_path):
    data = own_data(tmp_path / "data", videos, [])
    (data / "labels.txt").write_text("bar\ndrift\nnobody\n")
    return data, "has no training clip of nobody; add some, or leave the class out"


def other_labels(videos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    (data / "validation" / "drift").rename(data / "validation" / "drifts")
    return data, "has no folder drift; train and validation must have the same classes"


def no_validation(videos, tmp_path):
    data = own_data(tmp_path / "data", videos, [])
    shutil.rmtree(data / "validation")
    return data, "validation"


def missing_recordings(videos, tmp_path):
    data = own_data(tmp_path / "data", videos, ["gone.mp4,0,1,bar"])
    return data, "names 1 files that are not there"


@pytest.mark.parametrize(
    "damage", [broken_clips, missing_class, other_labels, no_validation, missing_recordings]
)
def test_data_that_cannot_be_trained_on_end_in_one_line(videos, tmp_path, capsys, damage):
    data, message = damage(videos, tmp_path)
    assert run_command(lambda: main(argv_of(data, tmp_path / "run"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list((tmp_path / "run").rglob("*.ckpt"))


# ---- starting points


def test_imagenet_weights_start_lite0_without_a_network(videos, tmp_path, capsys):
    fields = ("backbone=efficientnet_lite0", "init=imagenet", "backbone_lr=0.1", "pre_roll=0")
    assert run_command(lambda: main(argv_of(videos, tmp_path, *fields))) == 0
    capsys.readouterr()


def test_a_lookahead_checkpoint_is_fine_tuned_by_a_causal_recipe(videos, tmp_path, capsys):
    fields = ("form=lookahead", "pre_roll=0", "sampling=segments", "shift_div=4")
    assert run_command(lambda: main(argv_of(videos, tmp_path / "a", *fields))) == 0
    first = tmp_path / "a" / "checkpoint" / BEST
    fields = (f"init={first}", "shift_div=4", "learning_rate=1e-9", "weight_decay=0")
    assert run_command(lambda: main(argv_of(videos, tmp_path / "b", *fields))) == 0
    then, now = (load_checkpoint(tmp_path / run / "checkpoint" / BEST) for run in "ab")
    assert (then[1].model.unit.form, now[1].model.unit.form) == ("lookahead", "causal")
    theirs = dict(then[0].named_parameters())
    for name, parameter in now[0].named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name
    capsys.readouterr()


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_starting_points_that_are_none_end_in_one_line(videos, tmp_path, capsys):
    proof = tmp_path / "it_ran"
    given = {}
    for suffix in ("ckpt", "pth"):
        given[f"code.{suffix}"] = "it is no PyTorch file, or holds code"
        torch.save(Code(proof), tmp_path / f"code.{suffix}")
        given[f"old.{suffix}"] = "it is no PyTorch file, or holds code"
        (tmp_path / f"old.{suffix}").write_bytes(pickle.dumps(Code(proof)))
        given[f"empty.{suffix}"] = "cannot be read"
        (tmp_path / f"empty.{suffix}").touch()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    given["foreign.ckpt"] = "is not a checkpoint of this project"
    torch.save({"w": torch.zeros(1)}, tmp_path / "foreign.pth")
    given["foreign.pth"] = "is not a published tiny"
    other = lively_model("tiny", UNITS["plain"])
    write_checkpoint(tmp_path / "plain.ckpt", other, facts_of_model(other.config))
    given["plain.ckpt"] = "holds another architecture than tiny"
    for name, message in given.items():
        run = tmp_path / "run"
        assert run_command(partial(main, argv_of(videos, run, f"init={tmp_path / name}"))) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line, name
        assert not list(run.rglob("*.ckpt")), name
    assert not proof.exists(), "nothing in the files was run"


def test_a_last_checkpoint_with_code_is_not_resumed(videos, tmp_path, capsys):
    (tmp_path / "checkpoint").mkdir()
    torch.save(Code(tmp_path / "it_ran"), tmp_path / "checkpoint" / "last.ckpt")
    assert run_command(lambda: main([*argv_of(videos, tmp_path), "--resume"])) == 1
    assert "holds code" in capsys.readouterr().err
    assert not (tmp_path / "it_ran").exists()
