"""What a run starts from: decoded recordings in a cache, and the weights of a package."""

from dataclasses import replace

import pytest
import torch

from tests.train import small_data
from train.checkpoint import load_checkpoint
from train.data import frame_cache
from train.data.frame_cache import write_cache
from train.fit import fit
from train.model.tdrl import ModelConfig, Tdrl
from train.model.weights import IMAGENET, load_backbone_weights, pretrained_path
from train.module import TdrlModule
from train.run_checkpoints import BEST
from train.trainer import Hardware

CPU = Hardware(accelerator="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 training clips of half a second in 4 recordings, 10 for validation."""
    return small_data.write_clean(tmp_path_factory.mktemp("videos") / "data")


@pytest.fixture
def quick(recipe):
    return replace(recipe, epochs=1, window_s=None, workers=0)


@pytest.fixture
def batches(monkeypatch):
    """Clips, classes and losses of the steps of a run."""
    seen = []
    usual = TdrlModule.training_step

    def training_step(module, batch, batch_idx):
        loss = usual(module, batch, batch_idx)
        seen.append((batch[0].clone(), batch[1].tolist(), loss.item()))
        return loss

    monkeypatch.setattr(TdrlModule, "training_step", training_step)
    return seen


def test_a_cache_gives_what_the_recordings_give(quick, videos, tmp_path, batches, monkeypatch):
    fit(quick, videos, tmp_path / "plain", name="x", hardware=CPU)
    decoded = list(batches)
    batches.clear()
    cache = tmp_path / "cache"
    for recording in sorted(videos.rglob("*.mp4")):
        write_cache(recording, cache, 32)

    def open_frames(source, **how):
        raise AssertionError(f"{source} is decoded again")

    monkeypatch.setattr(frame_cache, "open_frames", open_frames)
    kept = replace(quick, cache=str(cache))
    best = fit(kept, videos, tmp_path / "cached", name="x", hardware=CPU)
    assert len(batches) == len(decoded) == 5
    for (ours, classes, loss), (theirs, same, expected) in zip(batches, decoded, strict=True):
        assert classes == same
        distance = (ours.float() - theirs.float()).abs()
        assert distance.mean() < 4, "levels of 255: JPEG of quality 95"
        assert loss == pytest.approx(expected, abs=0.1), "a few updates apart"
    facts = [load_checkpoint(best)[1]]
    facts.append(load_checkpoint(tmp_path / "plain" / "checkpoint" / BEST)[1])
    assert facts[0].sampling == facts[1].sampling


def test_clips_with_fewer_frames_than_the_model_sees_train(quick, videos, tmp_path, batches):
    """Two frames, four segments: each is seen twice, in order."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "labels.txt").symlink_to(videos / "labels.txt")
    for split, name in (("train", "r0.mp4"), ("validation", "v.mp4")):
        (data / split).mkdir()
        (data / split / name).symlink_to(videos / split / name)
        starts = [f"{name},{i / 10:.1f},{(i + 1) / 10:.1f}" for i in range(16)]
        rows = [f"{row},{small_data.CLASSES[i % 2]}" for i, row in enumerate(starts)]
        (data / split / "segments.csv").write_text("\n".join(["path,start_s,end_s,label", *rows]))
    fit(replace(quick, sampling="segments"), data, tmp_path / "run", name="x", hardware=CPU)
    assert not (tmp_path / "run" / "broken.txt").exists()
    pictures = torch.cat([clip for clip, _, _ in batches])
    assert pictures.shape == (16, 4, 3, 32, 32)
    for clip in pictures:
        assert len({picture.numpy().tobytes() for picture in clip}) == 2
        assert torch.equal(clip[0], clip[1])
        assert torch.equal(clip[2], clip[3])


def test_a_class_may_lack_in_the_validation(quick, videos, tmp_path):
    data = tmp_path / "data"
    (data / "validation").mkdir(parents=True)
    for name in ("labels.txt", "train", "validation/v.mp4"):
        (data / name).symlink_to(videos / name)
    rows = (videos / "validation" / "segments.csv").read_text().splitlines()
    some = [row for row in rows if not row.endswith("point")]
    assert len(some) == 6
    (data / "validation" / "segments.csv").write_text("\n".join(some))
    best = fit(quick, data, tmp_path / "run", name="x", hardware=CPU)
    assert load_checkpoint(best)[1].labels == small_data.CLASSES


def test_lite0_starts_with_the_weights_of_its_package(recipe, tiny_data, tmp_path, monkeypatch):
    """Without a network; the new parts start as they do without `init`."""
    seen = {}

    class EnoughError(Exception):
        pass

    def on_fit_start(module):
        seen.update({name: tensor.clone() for name, tensor in module.model.state_dict().items()})
        raise EnoughError

    monkeypatch.setattr(TdrlModule, "on_fit_start", on_fit_start)
    lite0 = replace(recipe, backbone="efficientnet_lite0", init=IMAGENET, shift_div=8)
    with pytest.raises(EnoughError):
        fit(lite0, tiny_data, tmp_path, name="x", hardware=CPU)
    fresh = replace(lite0, init=None)
    imagenet = dict(seen)
    with pytest.raises(EnoughError):
        fit(fresh, tiny_data, tmp_path, name="x", hardware=CPU)
    torch.manual_seed(0)
    config = ModelConfig(backbone=lite0.backbone, num_classes=13, unit=lite0.unit())
    model = Tdrl(config)
    load_backbone_weights(model, pretrained_path(lite0.backbone, IMAGENET))
    wanted = model.state_dict()
    stem = [n for n in wanted if n.startswith("backbone.") and ".unit." not in n]
    assert len(stem) > 200
    assert all(torch.equal(imagenet[name], wanted[name]) for name in stem)
    rest = [name for name in wanted if name not in stem]
    assert any(".unit." in name for name in rest)
    assert all(torch.equal(imagenet[name], seen[name]) for name in rest)
    convolutions = [name for name in stem if wanted[name].ndim == 4]
    assert not any(torch.equal(imagenet[name], seen[name]) for name in convolutions)


@pytest.mark.slow
def test_lite0_learns_from_imagenet_weights(recipe, tiny_data, tmp_path):
    lite0 = replace(
        recipe,
        backbone="efficientnet_lite0",
        init=IMAGENET,
        shift_div=8,
        epochs=1,
        num_segments=2,
        backbone_lr=0.1,
        batch_norm="partial",
    )
    best = fit(lite0, tiny_data, tmp_path, name="x", hardware=CPU)
    model, facts = load_checkpoint(best)
    assert facts.model.backbone == "efficientnet_lite0"
    gates = [p for name, p in model.named_parameters() if name.endswith("pem.attend.weight")]
    assert gates
    assert all(gate.any() for gate in gates), "they begin as zeros"


def test_a_frozen_stem_keeps_its_weights_and_statistics(tiny_data, recipe, trained, tmp_path):
    start = trained / "checkpoint" / BEST
    frozen = replace(recipe, epochs=1, init=str(start), freeze_stem=True)
    fit(frozen, tiny_data, tmp_path, name="x", hardware=CPU)
    before, after = (
        load_checkpoint(path)[0].state_dict() for path in (start, tmp_path / "checkpoint" / BEST)
    )
    stem = [name for name in before if name.startswith(("backbone.conv1.", "backbone.bn1."))]
    assert len(stem) == 6
    assert all(torch.equal(after[name], before[name]) for name in stem)
    learned = [n for n in before if n.startswith("backbone.layer") and n.endswith("conv1.weight")]
    assert not any(torch.equal(after[name], before[name]) for name in learned)


def test_the_stem_of_lite0_ends_before_its_first_temporal_unit():
    backbone = Tdrl(ModelConfig(backbone="efficientnet_lite0", num_classes=2)).backbone
    stem = {id(p) for part in backbone.stem() for p in part.parameters()}
    names = [name for name, p in backbone.named_parameters() if id(p) in stem]
    layers = {name.split(".")[1] for name in names if name.startswith("layers.")}
    assert layers == {"0", "1"}
    assert not any(".unit." in name for name in names)
    assert {"conv_stem.weight", "bn0.weight"} <= set(names)


def test_a_frozen_stem_needs_weights_to_freeze(recipe):
    with pytest.raises(ValueError, match="freeze_stem keeps weights that init brings"):
        replace(recipe, freeze_stem=True)


def test_a_consensus_that_the_recipe_says_is_not_fitted(tiny_data, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("train.live_fit.shortest_good", None)
    best = fit(
        replace(recipe, epochs=1, consensus_len=3), tiny_data, tmp_path, name="x", hardware=CPU
    )
    facts = load_checkpoint(best)[1]
    assert facts.sampling.consensus_len == 3
    assert facts.operating.measured, "the rest is"
