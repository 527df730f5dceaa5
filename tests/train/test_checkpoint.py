import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import CheckpointError
from runtime.operating_point import OperatingPoint
from runtime.policy import Policy, Thresholds
from runtime.preprocess import PictureRule
from runtime.sampling import ClipLengths, SamplingContract
from tests.train.models import UNITS, facts_of_model, lively_model, pictures, write_checkpoint
from train.checkpoint import ENTRY, Facts, load_checkpoint, read_checkpoint, update_facts
from train.model.tdrl import ModelConfig

MODEL = lively_model("tiny", UNITS["pem-tsm"])


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "best.ckpt", MODEL, facts_of_model(MODEL.config))


def rewritten(path, **facts):
    """Change the stored facts behind the library's back."""
    data = torch.load(path, weights_only=True)
    data[ENTRY].update(facts)
    torch.save(data, path)
    return path


@torch.no_grad()
def test_model_and_facts_come_back(tmp_path):
    facts = facts_of_model(
        MODEL.config,
        name="kitchen",
        labels=("a", "b", "c", "d"),
        picture=PictureRule(height_px=32, width_px=48, crop="roi", roi=(0, 0.25, 0.5, 1)),
        sampling=SamplingContract(
            num_segments=8, window_s=3.25, consensus_len=4, clip_lengths=ClipLengths(9, 1, 2, 3)
        ),
        operating=OperatingPoint(
            temperature=1.25,
            policy=Policy(enter=0.5, lag_s=0.5, classes={"b": Thresholds(0.4, 0.2)}, ignore=("a",)),
            measured={"event_f1": 0.9},
        ),
        metrics={"val_top1": 0.75},
        recipe={"backbone": "tiny", "exclude": ("still",)},
    )
    path = write_checkpoint(tmp_path / "a.ckpt", MODEL, facts)
    model, read = load_checkpoint(path)
    assert read == facts
    assert not model.training
    assert torch.equal(model(pictures(2, 3)), MODEL(pictures(2, 3)))


def test_an_older_checkpoint_has_no_operating_point(checkpoint):
    data = torch.load(checkpoint, weights_only=True)
    del data[ENTRY]["operating_point"]
    torch.save(data, checkpoint)
    assert load_checkpoint(checkpoint)[1].operating == OperatingPoint()


# ---- files that are no checkpoint


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.ckpt; run `make train`"):
        load_checkpoint(tmp_path / "gone.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_called_damaged(checkpoint, share):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"best\.ckpt cannot be read, it may be damaged: \S"):
        load_checkpoint(checkpoint)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]), rest=st.binary(max_size=40))
def test_no_bytes_end_in_another_error(tmp_path, head, rest):
    path = tmp_path / "noise.ckpt"
    path.write_bytes(head + rest)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {}}, {ENTRY: {}}, torch.zeros(3)], ids=type
)
def test_a_file_of_another_project_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "other.ckpt")


class Intruder:
    def __reduce__(self):
        return (open, ("intruded", "w"))


def test_a_foreign_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {}, ENTRY: Intruder()}
    torch.save(content, "new.ckpt")
    torch.save(content, "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(content))
    for path in sorted(tmp_path.glob("*.ckpt")):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(path)
    assert len(list(tmp_path.iterdir())) == 3, "nothing was opened for writing"


# ---- checkpoints of another architecture


@pytest.mark.parametrize(
    ("config", "count", "first"),
    [
        (ModelConfig(backbone="resnet18", num_classes=4, unit=UNITS["pem-tsm"]), 148, "backbone.b"),
        (ModelConfig(backbone="tiny", num_classes=5, unit=UNITS["pem-tsm"]), 2, "fc.bias"),
        (ModelConfig(backbone="tiny", num_classes=4, unit=UNITS["tsm"]), 24, "backbone.layer1.0"),
    ],
    ids=["backbone", "classes", "no pem"],
)
def test_weights_that_do_not_fit_the_facts_are_one_clear_error(tmp_path, config, count, first):
    path = write_checkpoint(tmp_path / "a.ckpt", MODEL, facts_of_model(config))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert f"holds another architecture than {config.backbone}" in message
    assert f"first {first}" in message
    assert f"{count} tensors do not fit" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"model": {**MODEL.config.to_json(), "backbone": "vit"}},
        {"model": {**MODEL.config.to_json(), "heads": 3}},
        {"model": {}},
        {"model": None},
        {"sampling": {"num_segments": 0, "window_s": 1, "consensus_len": 1, "clip_lengths": None}},
        {"picture": {}},
        {"operating_point": {**OperatingPoint().to_json(), "temperature": 0}},
    ],
    ids=["format", "backbone", "field", "empty", "none", "range", "picture", "temperature"],
)
def test_facts_of_another_version_are_refused(checkpoint, change):
    with pytest.raises(CheckpointError, match="describes an architecture this version does not"):
        load_checkpoint(rewritten(checkpoint, **change))


# ---- changing facts


def test_facts_change_and_weights_stay(checkpoint):
    before = read_checkpoint(checkpoint)
    sampling = replace(facts_of_model(MODEL.config).sampling, consensus_len=2)
    changed = update_facts(checkpoint, sampling=sampling, metrics={"val_top1": 0.5})
    _, read = load_checkpoint(checkpoint)
    assert read == changed
    assert changed == facts_of_model(MODEL.config, sampling=sampling, metrics={"val_top1": 0.5})
    after = read_checkpoint(checkpoint)["state_dict"]
    assert all(torch.equal(t, after[name]) for name, t in before["state_dict"].items())


def test_a_failed_change_leaves_the_old_checkpoint_whole(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def full_disk(_, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space left.*the checkpoint before it is kept"):
        update_facts(checkpoint, name="other")
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_fact_that_does_not_exist_cannot_be_changed(checkpoint):
    with pytest.raises(TypeError, match="colour"):
        update_facts(checkpoint, colour="blue")
    assert isinstance(load_checkpoint(checkpoint)[1], Facts)
