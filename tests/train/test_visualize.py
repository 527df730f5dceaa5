import json
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from runtime.command import run_command
from runtime.errors import CheckpointError, DataError
from tests.train.models import UNITS, facts_of_model, lively_model, pictures, write_checkpoint
from train.data.video_file import write_h264
from train.model.activations import (
    enhanced_channels,
    first_tapped,
    frame_similarity,
    most_changed_channel,
    unit_activations,
    unit_names,
)
from train.model.unit import UnitConfig
from train.visualize import Stretch, main, visualize

MODEL = lively_model("tiny", UNITS["pem-tsm"])
AFTER = lively_model("tiny", UNITS["tsm-pem"])
PLAIN = lively_model("tiny", UNITS["tsm"])
NO_TM = lively_model("tiny", UNITS["pem"])
CLIP = pictures(1, 4, seed=3)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video and checkpoints with and without PEM, with and without a temporal module."""
    folder = tmp_path_factory.mktemp("visualize")
    frames = pictures(1, 20, 64, seed=5)[0].permute(0, 2, 3, 1).numpy()
    write_h264(folder / "a.mp4", list(frames), 10)
    models = {"pem": MODEL, "other": AFTER, "plain": PLAIN, "no_tm": NO_TM}
    for name, model in models.items():
        facts = facts_of_model(model.config, name=name, recipe={"td_loss": 2e-4})
        write_checkpoint(folder / f"{name}.ckpt", model, facts)
    return folder


# ---- activations


@torch.no_grad()
def attention_by_hand(model, clip):
    """a_t of the first block, from PEM's own parts."""
    unit = model.backbone.blocks()[0].unit
    kept = []
    handle = unit.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    model(clip[None])
    handle.remove()
    x = kept[0]
    if not unit.pem_first:
        fold = x.shape[1] // 8
        x = torch.cat((torch.cat((torch.zeros_like(x[:1]), x[:-1]))[:, :fold], x[:, fold:]), 1)
    state, rows = unit.pem.zero_state(1, x), []
    for frame in x:
        gated, state = unit.pem.step(frame[None], state)
        place = frame.abs().flatten(1).argmax(1)
        rows.append(gated[0].flatten(1).gather(1, place[:, None])[:, 0]
                    / frame.flatten(1).gather(1, place[:, None])[:, 0])  # fmt: skip
    return torch.stack(rows)


@pytest.mark.parametrize("model", [MODEL, AFTER], ids=["pem first", "pem after"])
def test_attention_is_what_multiplies_the_features(model):
    block = next(iter(unit_names(model)))
    found = unit_activations(model, CLIP, block).attention
    assert found is not None
    expected = attention_by_hand(model, CLIP)
    known = expected.isfinite()  # a channel of zeros tells nothing
    assert known.float().mean() > 0.5
    assert torch.allclose(found[known], expected[known], atol=1e-4)


@pytest.mark.parametrize("model", [MODEL, AFTER, PLAIN], ids=["pem first", "pem after", "no pem"])
def test_the_temporal_module_turns_before_into_after(model):
    block = first_tapped(model)
    seen = unit_activations(model, CLIP, block)
    fold = seen.before.shape[1] // 8  # TSM's share
    assert torch.equal(seen.after[1:, :fold], seen.before[:-1, :fold])
    assert not seen.after[0, :fold].any()
    assert torch.equal(seen.after[:, fold:], seen.before[:, fold:])
    assert (seen.attention is None) == (model is PLAIN)


def test_hooks_leave_nothing_behind_and_change_nothing():
    with torch.no_grad():
        before = MODEL(CLIP[None])
        seen = unit_activations(MODEL, CLIP, "layer2.0")
        assert torch.equal(MODEL(CLIP[None]), before)
    assert torch.allclose(seen.logits, before[0].mean(0))
    assert not any(module._forward_hooks for module in MODEL.modules())


def test_hooks_are_removed_after_a_failure():
    with pytest.raises(RuntimeError):
        unit_activations(MODEL, CLIP[:, :2], "layer2.0")
    assert not any(module._forward_hooks for module in MODEL.modules())


def test_blocks_have_the_names_of_the_backbone():
    assert list(unit_names(MODEL)) == [f"layer{stage}.0" for stage in (1, 2, 3, 4)]
    assert first_tapped(MODEL) == "layer2.0"
    with pytest.raises(ValueError, match=r"block must be one of layer1\.0, .* got 'layer9'"):
        unit_activations(MODEL, CLIP, "layer9")


def test_channels_are_ranked_by_the_mean_over_frames():
    attention = torch.tensor([[0.1, 0.9, 0.5, 0.4], [0.3, 0.7, 0.9, 0.2]])  # 0.2, 0.8, 0.7, 0.3
    assert enhanced_channels(attention, 2) == ([1, 2], [0, 3])
    assert enhanced_channels(attention, 10) == ([1, 2], [0, 3]), "half of the channels at most"
    assert enhanced_channels(torch.rand(4, 64), 10)[0] != enhanced_channels(torch.rand(4, 64))[1]


def test_similarity_is_the_mean_cosine_of_different_frames():
    same = torch.ones(3, 2, 2)
    assert frame_similarity(same) == pytest.approx(1)
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    assert frame_similarity(apart) == pytest.approx((0 + 2 * 2**-0.5) / 3)
    assert frame_similarity(torch.zeros(3, 2, 2)) == 0


def test_the_channel_that_changes_most_is_a_shifted_one():
    seen = unit_activations(MODEL, CLIP, "layer2.0")
    assert most_changed_channel(seen) < seen.before.shape[1] // 8


# ---- pictures


def test_both_figures_are_drawn_and_the_channels_are_really_the_extremes(folder, tmp_path):
    found = visualize(
        Stretch(folder / "a.mp4"), folder / "pem.ckpt", tmp_path, compare=folder / "other.ckpt"
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"enhancement.png", "temporal_module.png", "visualize.json"}
    assert json.loads((tmp_path / "visualize.json").read_text()) == found
    for name in ("enhancement.png", "temporal_module.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.std() > 10
    enhancement = found["enhancement"]
    assert enhancement["block"] == "layer1.0"
    largest = [entry["mean_attention"] for entry in enhancement["largest"]]
    smallest = [entry["mean_attention"] for entry in enhancement["smallest"]]
    assert largest == sorted(largest, reverse=True)
    assert smallest == sorted(smallest)
    assert min(largest) >= max(smallest)
    # 16 channels: eight and eight, each once
    chosen = [entry["channel"] for entry in enhancement["largest"] + enhancement["smallest"]]
    assert sorted(chosen) == list(range(16))
    assert [entry["model"] for entry in found["temporal_module"]] == ["pem", "other"]
    assert {entry["block"] for entry in found["temporal_module"]} == {"layer2.0"}


def test_the_ten_channels_of_a_wider_block_are_the_top_ten():
    attention = torch.from_numpy(np.random.default_rng(0).random((4, 64)))
    most, least = enhanced_channels(attention)
    mean = attention.mean(0).numpy()
    assert most == np.argsort(-mean)[:10].tolist()
    assert least == np.argsort(mean)[:10].tolist()


def test_a_stretch_block_and_channel_can_be_chosen(folder, tmp_path):
    found = visualize(
        Stretch(folder / "a.mp4", 0.5, 1.5),
        folder / "pem.ckpt",
        tmp_path,
        block="layer3.0",
        channel=2,
    )
    (entry,) = found["temporal_module"]
    assert (entry["block"], entry["channel"]) == ("layer3.0", 2)
    whole = visualize(Stretch(folder / "a.mp4"), folder / "pem.ckpt", tmp_path)
    assert whole["enhancement"]["largest"] != found["enhancement"]["largest"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"checkpoint": "plain.ckpt"}, CheckpointError, r"plain\.ckpt has no PEM, so there is no"),
        ({"checkpoint": "no_tm.ckpt"}, CheckpointError, "no_tm has no temporal module"),
        ({"compare": "no_tm.ckpt"}, CheckpointError, "no_tm has no temporal module"),
        ({"block": "layer9"}, ValueError, "block must be one of"),
        ({"channel": 99}, ValueError, r"channel must be in 0\.\.\d+ in layer2\.0, got 99"),
        ({"start_s": 9.0}, DataError, r"nothing of .*a\.mp4 \(0\.00\.\.2\.00 s\) lies between 9"),
        ({"video": "gone.mp4"}, DataError, r"gone\.mp4"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folder, tmp_path, change, error, message):
    video = folder / change.pop("video", "a.mp4")
    stretch = Stretch(video, change.pop("start_s", None))
    checkpoint = folder / change.pop("checkpoint", "pem.ckpt")
    if "compare" in change:
        change["compare"] = folder / change["compare"]
    with pytest.raises(error, match=message):
        visualize(stretch, checkpoint, tmp_path, **change)


def test_a_lookahead_model_can_be_drawn_too(folder, tmp_path):
    unit = replace(UNITS["pem-tsm"], form="lookahead")
    assert isinstance(unit, UnitConfig)
    model = lively_model("tiny", unit)
    facts = facts_of_model(model.config, name="ahead")
    path = write_checkpoint(tmp_path / "a.ckpt", model, facts)
    found = visualize(Stretch(folder / "a.mp4"), path, tmp_path / "out")
    assert found["temporal_module"][0]["td_loss"] is None


def test_the_command_says_where_the_pictures_are(folder, tmp_path, capsys, monkeypatch):
    argv = [str(folder / "a.mp4"), "--checkpoint", str(folder / "pem.ckpt"), "--out"]
    assert run_command(partial(main, [*argv, str(tmp_path)])) == 0
    assert str(tmp_path / "enhancement.png") in capsys.readouterr().out
    monkeypatch.setattr("train.visualize.PICTURES", tmp_path / "here")
    assert run_command(partial(main, argv[:3])) == 0
    assert (tmp_path / "here" / "a" / "temporal_module.png").is_file()
    capsys.readouterr()
    argv[2] = str(folder / "plain.ckpt")
    assert run_command(partial(main, [*argv, str(tmp_path)])) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no PEM" in line
