"""What the tests of this room share: graphs, data and one bundle, each made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from export.bundle import Built, build_bundle
from tests.export.small import UNITS, Exported, arrow_data, exported, write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose time to threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def step_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """`step_of(backbone, kind)`: a float step graph; kinds are the keys of `small.UNITS`."""
    folder = tmp_path_factory.mktemp("steps")
    return lambda backbone, kind: exported(folder, backbone, kind)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return arrow_data(tmp_path_factory.getbasetemp() / "arrow_of_time")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A checkpoint with PEM and TSM."""
    path = tmp_path_factory.mktemp("run") / "checkpoint" / "best.ckpt"
    write_checkpoint(path, data, UNITS["pem-tsm"])
    return path


@pytest.fixture(scope="session")
def built(checkpoint: Path, data: Path) -> Built:
    """A real bundle; tests copy its folder before they change it."""
    return build_bundle(checkpoint, data, checkpoint.parent.parent / "bundle", allowed_loss=1.0)
