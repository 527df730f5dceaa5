import warnings
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.train.models import UNITS, facts_of_model, lively_model, pictures
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.module import TdrlModule, frozen_statistics

T = 4


class Losses(pl.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def module_of(recipe, num_classes=2):
    torch.manual_seed(0)
    unit = UnitConfig(temporal=recipe.temporal, pem=recipe.pem, shift_div=recipe.shift_div)
    config = ModelConfig(backbone="tiny", num_classes=num_classes, unit=unit)
    return TdrlModule(recipe, facts_of_model(config))


def train(module, clips, labels, epochs=1):
    """Losses of the steps, batches of 8 in the given order."""
    losses = Losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's tips about loaders
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[losses],
        )
        trainer.fit(module, DataLoader(TensorDataset(clips, labels), batch_size=8))
    return losses.values


def order_clips(count):
    """Clips and their reversals as two classes: a bar that moves right, or left."""
    clips = torch.zeros(count, T, 3, 32, 32, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for clip in clips:
        clip += torch.randint(0, 60, (3, 1, 1), generator=generator).to(torch.uint8)
        start = int(torch.randint(0, 6, (), generator=generator))
        for t in range(T):
            clip[t, :, :, start + 6 * t : start + 6 * t + 5] = 220
    labels = torch.arange(count) % 2
    clips[1::2] = clips[0::2].flip(1)
    return clips, labels


# ---- learning


def test_loss_falls_on_a_toy_that_only_order_solves(recipe):
    clips, labels = order_clips(32)
    losses = train(module_of(recipe), clips, labels, epochs=8)
    assert sum(losses[-4:]) < 0.3 * sum(losses[:4])


def test_an_order_blind_model_cannot_learn_the_toy(recipe):
    clips, labels = order_clips(32)
    blind = replace(recipe, temporal="none", pem=False, td_loss=0, pre_roll=0)
    losses = train(module_of(blind), clips, labels, epochs=4)
    assert min(losses) > 0.68  # ln 2 = 0.693


def test_td_loss_is_added_with_its_weight_and_share_of_channels(recipe):
    clips, labels = order_clips(8)
    plain = replace(recipe, pre_roll=0.0, td_loss=0.0)
    diverse = replace(plain, td_loss=0.125, td_ratio=0.25)
    without, with_it = (train(module_of(r), clips, labels)[0] for r in (plain, diverse))
    with torch.no_grad():
        _, run = module_of(plain).model.train().run_clip(clips)
        taps = [tap.unflatten(0, (8, T)) for tap in run.taps]
        expected = sum(temporal_diversity_loss(tap, ratio=0.25).item() for tap in taps)
    assert len(taps) == 3
    assert expected > 1
    assert with_it - without == pytest.approx(0.125 * expected, rel=1e-4)


def test_td_loss_switched_off_is_not_computed(recipe, monkeypatch):
    monkeypatch.setattr("train.module.temporal_diversity_loss", None)
    train(module_of(replace(recipe, td_loss=0.0)), *order_clips(8))
    with pytest.raises(TypeError):
        train(module_of(recipe), *order_clips(8))


def test_vectors_are_not_decayed(recipe):
    module = module_of(replace(recipe, weight_decay=0.5))
    train(module, *order_clips(8))
    decayed, plain = module.optimizers().optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    names = {id(p): name for name, p in module.named_parameters()}
    undecayed = {names[id(p)] for p in plain["params"]}
    assert {name for name in names.values() if name.endswith("bias") or ".bn" in name} <= undecayed
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


# ---- pre-roll


class Watch:
    """Sees every pass of a model: its clip, the state it began with and the state it left."""

    def __init__(self, model, monkeypatch):
        self.passes = []
        self.run_clip = model.run_clip
        monkeypatch.setattr(model, "run_clip", self)

    def __call__(self, clip, state=None):
        logits, run = self.run_clip(clip, state)
        self.passes.append((clip, state, run, torch.is_grad_enabled()))
        return logits, run


def test_pre_roll_runs_other_clips_first_without_gradients(recipe, monkeypatch):
    module = module_of(replace(recipe, pre_roll=1.0))
    watch = Watch(module.model, monkeypatch)
    clips = pictures(8 * 12, T, seed=5)
    train(module, clips, torch.arange(8 * 12) % 2)
    lengths = []
    for (earlier, start, run, had_grad), (clip, state, _, has_grad) in zip(
        watch.passes[::2], watch.passes[1::2], strict=True
    ):
        assert (start, had_grad, has_grad) == (None, False, True)
        before = torch.cat((clip.roll(2, 0), clip.roll(1, 0)), dim=1)
        count = earlier.shape[1]
        assert torch.equal(earlier, before[:, 2 * T - count :])
        left = module.model.pack_state(run.states_out)
        assert all(
            given is kept or torch.equal(given, kept)
            for given, kept in zip(state, left, strict=True)
        )
        assert not any(tensor.requires_grad for tensor in state)
        lengths.append(count)
    assert len(lengths) == 12
    assert min(lengths) >= 1
    assert max(lengths) <= 2 * T
    assert len(set(lengths)) > 3


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 2, 10), (1.0, 12, 12)])
def test_pre_roll_comes_before_its_share_of_the_batches(recipe, monkeypatch, share, least, most):
    module = module_of(replace(recipe, pre_roll=share))
    watch = Watch(module.model, monkeypatch)
    train(module, pictures(8 * 12, T), torch.arange(8 * 12) % 2)
    assert least <= sum(not has_grad for *_, has_grad in watch.passes) <= most
    assert sum(has_grad for *_, has_grad in watch.passes) == 12


def test_pre_roll_is_the_same_in_every_run(recipe):
    clips, labels = pictures(32, T), torch.arange(32) % 2
    first, again = (train(module_of(recipe), clips, labels, epochs=2) for _ in range(2))
    assert first == again
    assert train(module_of(replace(recipe, seed=1)), clips, labels, epochs=2) != first


def test_pre_roll_leaves_the_running_statistics_alone(recipe):
    module = module_of(replace(recipe, pre_roll=1.0))
    train(module, *order_clips(24))
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.state_dict()["num_batches_tracked"].item() for norm in norms] == [3] * len(norms)
    assert {norm.momentum for norm in norms} == {0.1}


def test_frozen_statistics_use_the_batch_and_forget_it():
    model = Tdrl(lively_model("tiny", UNITS["pem-tsm"]).config).train()
    model.load_state_dict(lively_model("tiny", UNITS["pem-tsm"]).state_dict())
    clip = pictures(3, T, seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad(), frozen_statistics(model):
        frozen = model(clip)
    after = model.state_dict()
    assert list(after) == list(before), "num_batches_tracked is back in its place"
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    with torch.no_grad():
        usual = model(clip)
    assert torch.equal(frozen, usual), "normalised by the batch, as in training"
    first = {
        name: before[f"backbone.bn1.{name}"] for name in ("num_batches_tracked", "running_mean")
    }
    after = model.backbone.get_submodule("bn1").state_dict()
    assert after["num_batches_tracked"] == first["num_batches_tracked"] + 1
    assert not torch.equal(after["running_mean"], first["running_mean"])


def test_frozen_statistics_thaw_after_an_error():
    model = Tdrl(lively_model("tiny", UNITS["pem"]).config)
    with pytest.raises(RuntimeError, match="boom"), frozen_statistics(model):
        raise RuntimeError("boom")
    norm = model.backbone.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked is not None
