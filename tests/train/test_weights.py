import pickle

import pytest
import torch

from runtime.errors import CheckpointError
from tests.train.models import assert_equal, enliven, pictures
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.model.weights import load_backbone_weights


def model_of(backbone="resnet18", **unit):
    torch.manual_seed(0)
    return Tdrl(ModelConfig(backbone=backbone, num_classes=3, unit=UnitConfig(**unit))).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A plain ResNet-18 and its state dict in a file, as torchvision publishes it."""
    plain = model_of(temporal="none", pem=False)
    enliven(plain)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save({**plain.backbone.state_dict(), **classifier}, path)
    return plain, path


@torch.no_grad()
def test_a_tdrl_with_imagenet_weights_starts_as_the_plain_net(published):
    plain, path = published
    model = model_of(temporal="none")
    assert load_backbone_weights(model, path) == 120
    model.fc.load_state_dict(plain.fc.state_dict())
    clip = pictures(2, 3)
    assert_equal(model(clip), plain(clip), relative=1e-5)


def test_weights_without_pem_are_taken_as_they_are(published):
    plain, path = published
    model = model_of(pem=False)
    load_backbone_weights(model, path)
    given = plain.backbone.state_dict()
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in given)


def test_files_older_than_num_batches_tracked_load(published, tmp_path):
    state = torch.load(published[1], weights_only=True)
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    assert load_backbone_weights(model_of(), tmp_path / "old.pth") == 100


@pytest.mark.parametrize("backbone", ["tiny", "resnet34", "resnet50"])
def test_another_architecture_is_refused_and_changes_nothing(published, backbone):
    model = model_of(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"resnet18\.pth is not a {backbone} of torchvision"):
        load_backbone_weights(model, published[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read"):
        load_backbone_weights(model_of("tiny"), path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match="holds a Tensor, not a state dict"):
        load_backbone_weights(model_of("tiny"), path)


class Intruder:
    def __reduce__(self):
        return (open, ("intruded", "w"))


def test_a_foreign_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.weight": Intruder()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pth cannot be read"):
        load_backbone_weights(model_of("tiny"), tmp_path / "evil.pth")
    torch.save({"conv1.weight": Intruder()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth cannot be read"):
        load_backbone_weights(model_of("tiny"), tmp_path / "evil.pth")
    assert not (tmp_path / "intruded").exists()
