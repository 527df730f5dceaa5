import pytest
import torch

from train.data.arrow_of_time import Sizes, build
from train.fit import fit
from train.recipe import Recipe

TINY = Sizes(
    train_scenes=40,
    frames_per_clip=8,
    picture_px=32,
    validation_clips=1,
    calibration_clips=1,
    tape_actions=4,
    tape_validation_actions=4,
)

RECIPE = Recipe(
    backbone="tiny",
    height_px=32,
    width_px=32,
    num_segments=4,
    window_s=2.0,
    shift_div=4,
    epochs=2,
    batch_size=8,
    learning_rate=4e-3,
    dropout=0.1,
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors on shared cores: threads that wait for each other cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """The arrow-of-time data set, as small as it gets: 40 scenes, 32 px, tapes of 4 actions."""
    folder = tmp_path_factory.mktemp("arrow_of_time")
    build(folder, 0, TINY)
    return folder


@pytest.fixture(scope="session")
def recipe():
    return RECIPE


@pytest.fixture(scope="session")
def trained(tiny_data, tmp_path_factory):
    """The folder of a finished run of `recipe`: two epochs, do not change it."""
    run = tmp_path_factory.mktemp("trained")
    fit(RECIPE, tiny_data, run, name="trained")
    return run
