import math
from typing import Any

import pytest

from runtime.errors import DataError
from train.recipe import Recipe
from train.recipe_file import RECIPE_FOLDER, load_recipe

SHIPPED = sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def written(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_recipes_are_shipped():
    assert {"demo", "demo-control"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert load_recipe(str(RECIPE_FOLDER / f"{name}.yaml")) == recipe
    assert isinstance(recipe.learning_rate, float)
    assert Recipe(**recipe.to_json()) == recipe


def test_the_control_is_order_blind():
    control = load_recipe("demo-control")
    assert (control.temporal, control.pem, control.exclude) == ("none", False, ("still",))


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'1e-3'", "1E-3"])
def test_numbers_as_yaml_understands_them_and_as_it_does_not(tmp_path, text):
    """YAML 1.1 reads 1e-3, without a point, as text."""
    recipe = load_recipe(written(tmp_path, f"backbone: tiny\nlearning_rate: {text}\nepochs: 1e1"))
    assert recipe.learning_rate == pytest.approx(1e-3)
    assert recipe.epochs == 10
    assert isinstance(recipe.epochs, int)


def test_overrides_replace_the_files_values(tmp_path):
    path = written(tmp_path, "backbone: tiny\nepochs: 4\nwindow_s: 2.0")
    changes = {"epochs": "9", "window_s": "null", "exclude": "[still, rise]", "td_loss": "1e-4"}
    recipe = load_recipe(path, changes)
    assert (recipe.epochs, recipe.window_s, recipe.exclude) == (9, None, ("still", "rise"))
    assert recipe.td_loss == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", r"my\.yaml line 2: unknown field 'epoch'; did you mean epochs\?"),
        ("learning-rate: 1", "unknown field 'learning-rate'; did you mean learning_rate"),
        ("zzz: 1", "unknown field 'zzz'$"),
        ("1: 2", "unknown field 1"),
        ("epochs: ten", "epochs must be a number, got 'ten'"),
        ("epochs: 2.5", "epochs must be a whole number, got 2.5"),
        ("epochs: true", "epochs must be a whole number, got True"),
        ("epochs: null", "epochs must be a number, got None"),
        ("epochs: [1]", r"epochs must be a number, got \[1\]"),
        ("learning_rate: true", "learning_rate must be a finite number, got True"),
        ("learning_rate: .nan", "learning_rate must be a finite number, got nan"),
        ("dropout: .inf", "dropout must be a finite number, got inf"),
        ("window_s: soon", "window_s must be a number, got 'soon'"),
        ("pem: 1", "pem must be true or false, got 1"),
        ("pem: 'yes'", "pem must be true or false, got 'yes'"),
        ("init: 5", "init must be text, got 5"),
        ("form: [causal]", r"form must be text, got \['causal'\]"),
        ("exclude: still", "exclude must be a list of names, got 'still'"),
        ("exclude: [1]", r"exclude must be a list of names, got \[1\]"),
    ],
)
def test_unknown_fields_and_wrong_types_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(tmp_path, f"backbone: tiny\n{line}\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("backbone: resnet19", "backbone must be one of tiny, resnet18.*got 'resnet19'"),
        ("temporal: gru", "temporal must be one of none, tsm, tim, mem, tei, vsn, got 'gru'"),
        ("crop: roi", "crop must be one of center, full, got 'roi'"),
        ("form: live", "form must be one of causal, lookahead, got 'live'"),
        ("sampling: sparse", "sampling must be one of live, segments, dense, got 'sparse'"),
        ("validation: all", "validation must be one of live, segments, dense, got 'all'"),
        ("num_segments: 0", "num_segments must be > 0, got 0"),
        ("shift_div: 0", "shift_div must be > 0, got 0"),
        ("epochs: -1", "epochs must be > 0, got -1"),
        ("batch_size: 0", "batch_size must be > 0, got 0"),
        ("learning_rate: 0", "learning_rate must be > 0, got 0.0"),
        ("learning_rate: 1e38", r"learning_rate must be <= 1e30, got 1e\+38"),
        ("pre_roll: 1.5", r"pre_roll must be in \[0, 1\], got 1.5"),
        ("label_smoothing: -0.1", r"label_smoothing must be in \[0, 1\], got -0.1"),
        ("dropout: 1", r"dropout must be in \[0, 1\), got 1.0"),
        ("td_ratio: 0", r"td_ratio must be in \(0, 1\], got 0.0"),
        ("td_loss: -1", "td_loss must be >= 0, got -1.0"),
        ("weight_decay: -1", "weight_decay must be >= 0, got -1.0"),
        ("workers: -1", "workers must be auto or >= 0, got -1"),
        ("seed: -1", "seed must be >= 0, got -1"),
        ("window_s: 0", "window_s must be > 0, got 0.0"),
        ("window_s: 1e9", r"my\.yaml line 2: window_s must be"),
        ("width_px: 4", r"my\.yaml line 2: width_px must be >= 8, got 4"),
        ("consensus_len: 5000", r"my\.yaml line 2: consensus_len must be in 1\.\.4096, got 5000"),
        ("num_segments: 1", "td_loss compares frames: set td_loss: 0"),
        ("form: lookahead", "pre_roll needs form causal; set pre_roll: 0"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_starts(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(tmp_path, line if "backbone" in line else f"backbone: tiny\n{line}\n"))


def test_nan_does_not_slip_through_the_ranges():
    for name in ("learning_rate", "td_loss", "weight_decay", "window_s", "pre_roll", "dropout"):
        values: dict[str, Any] = {"backbone": "tiny", name: math.nan}
        with pytest.raises(ValueError, match=f"{name} must be"):
            Recipe(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone: [", "is no valid YAML"),
        ("", "must hold `field: value` lines, got NoneType"),
        ("- tiny", "must hold `field: value` lines, got list"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_recipe(written(tmp_path, text))


def test_a_recipe_needs_a_backbone(tmp_path):
    with pytest.raises(ValueError, match="has no backbone; one of tiny, resnet18"):
        load_recipe(written(tmp_path, "epochs: 3"))


def test_an_unknown_recipe_lists_those_there_are(tmp_path):
    with pytest.raises(DataError, match="no recipe 'demp'; shipped recipes: .*demo, .*yaml file"):
        load_recipe("demp")
    with pytest.raises(DataError, match=r"no recipe '.*gone\.yaml'"):
        load_recipe(str(tmp_path / "gone.yaml"))
