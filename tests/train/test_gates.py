"""Gates over clips: numbers against a pass by hand, and what holding them does."""

import json
from copy import deepcopy

import pytest
import torch

from runtime.command import run_command
from tests.train.models import UNITS, facts_of_model, lively_model, pictures, write_checkpoint
from train.gates import gate_report, gate_table, main
from train.model.activations import unit_activations, unit_names
from train.model.unit import UnitConfig

CLIPS = pictures(6, 4, seed=7)


class Views:
    """Clips as `train.data.views` gives them."""

    def __init__(self, clips, labels):
        self.clips, self.labels = clips, labels
        self.view_shape = (1, clips.shape[1], *clips.shape[3:])

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index][None], self.labels[index]


@torch.no_grad()
def answers(model):
    return model(CLIPS).mean(1).argmax(1).tolist()


def attends(model):
    """W_a of every block."""
    return {name: unit.pem.attend for name, unit in unit_names(model).items() if unit.pem}


def gates_of(model, block):
    """a_t of every clip on its own, (N, T, C)."""
    gates = [unit_activations(model, clip, block).attention for clip in CLIPS]
    return torch.stack([gate for gate in gates if gate is not None])


@pytest.mark.parametrize(
    "unit", [UNITS["pem-tsm"], UNITS["tsm-pem"], UnitConfig(form="lookahead")], ids=str
)
def test_numbers_are_those_of_single_passes(unit):
    model = lively_model("tiny", unit)
    report = gate_report(model, Views(CLIPS, answers(model)))
    assert (report.clips, report.top1) == (6, 1.0)
    assert [one.block for one in report.blocks] == list(unit_names(model))
    for one in report.blocks:
        gate = gates_of(model, one.block)
        assert one.channels == gate.shape[2]
        assert one.mean == pytest.approx(float(gate.mean()), abs=1e-5)
        assert one.std == pytest.approx(float(gate.std(correction=0)), abs=1e-5)
        inner = (gate - gate.mean((0, 1))).square().mean().sqrt()
        assert one.std_in_channel == pytest.approx(float(inner), abs=1e-5)
        assert one.change == pytest.approx(float(gate.diff(dim=1).abs().mean()), abs=1e-5)
        assert one.change > 1e-4


def hold(model, gate_of):
    """The model with a_t that its own bias says, whatever it sees."""
    for name, attend in attends(model).items():
        attend.weight.data.zero_()
        attend.bias.data.copy_(gate_of(name, attend.out_features).logit())
    return model


def own_copy(unit):
    return deepcopy(lively_model("tiny", unit))


def test_held_gates_are_the_model_with_those_gates():
    model = own_copy(UNITS["pem-tsm"])
    for attend in attends(model).values():
        attend.weight.data.mul_(20)  # clips and frames differ
    as_trained = answers(model)
    gates = {name: gates_of(model, name) for name in unit_names(model)}
    at_half = answers(hold(own_copy(UNITS["pem-tsm"]), lambda _, c: torch.full((c,), 0.5)))
    at_mean = answers(hold(own_copy(UNITS["pem-tsm"]), lambda name, _: gates[name].mean((0, 1))))
    labels = [0, 1, 2, 3, at_mean[4], at_half[5]]
    report = gate_report(model, Views(CLIPS, labels))
    for held, expected in [(report.at_mean, at_mean), (report.at_half, at_half)]:
        right = [a == b for a, b in zip(expected, labels, strict=True)]
        changed = [a != b for a, b in zip(expected, as_trained, strict=True)]
        assert held.top1 == pytest.approx(sum(right) / 6)
        assert held.changed == pytest.approx(sum(changed) / 6)
    assert max(report.at_mean.changed, report.at_half.changed) > 0
    assert answers(model) == as_trained, "the model is left as it was"


def test_gates_that_say_nothing_are_worth_nothing():
    model = hold(own_copy(UNITS["pem"]), lambda _, c: torch.full((c,), 0.5))
    report = gate_report(model, Views(CLIPS, answers(model)))
    assert report.at_mean.changed == report.at_half.changed == 0
    assert all(one.std < 1e-6 and one.change == 0 for one in report.blocks)
    assert "gates at their mean   100.0%   0.0% of the answers change" in gate_table(report)


def test_clips_of_one_frame_have_no_change():
    model = lively_model("tiny", UNITS["pem"])
    report = gate_report(model, Views(CLIPS[:, :1], [0] * 6))
    assert {one.change for one in report.blocks} == {0.0}


def test_the_command_prints_a_table_and_writes_json(trained, tiny_data, tmp_path, capsys):
    out = tmp_path / "gates.json"
    checkpoint = trained / "checkpoint" / "best.ckpt"
    main(["--checkpoint", str(checkpoint), "--data", str(tiny_data), "--out", str(out)])
    found = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"numbers: {out}"
    for one in found["blocks"]:
        assert one["block"] in said
        assert 0 < one["mean"] < 1
    evaluated = torch.load(checkpoint, weights_only=True)["tdrl"]["metrics"]["val_top1"]
    assert found["top1"] == pytest.approx(evaluated)


def test_a_model_without_pem_is_refused(tmp_path, tiny_data, capsys):
    model = lively_model("tiny", UNITS["tsm"])
    path = write_checkpoint(tmp_path / "a.ckpt", model, facts_of_model(model.config))
    arguments = ["--checkpoint", str(path), "--data", str(tiny_data)]
    assert run_command(lambda: main(arguments)) == 1
    assert "has no PEM, so it has no gates; give a checkpoint" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no PEM"):
        gate_report(model, Views(CLIPS, [0] * 6))
