"""Recipes for people: every field explained, every shipped recipe a model that can be built."""

from dataclasses import fields

import pytest
import torch

from runtime.command import run_command
from runtime.errors import DataError
from train.fit import main
from train.model.tdrl import ModelConfig, Tdrl
from train.recipe import Recipe
from train.recipe_file import describe, load_recipe, shipped_recipes

FIELDS = [field.name for field in fields(Recipe)]


def written(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_be_built_and_explained(name):
    recipe = load_recipe(name)
    config = ModelConfig(
        backbone=recipe.backbone, num_classes=174, unit=recipe.unit(), dropout=recipe.dropout
    )
    with torch.device("meta"):
        model = Tdrl(config)
    assert model.fc.weight.shape[0] == 174
    text = describe(name).splitlines()
    for field in FIELDS:
        (row,) = [n for n, line in enumerate(text) if line.startswith(f"  {field} = ")]
        assert len(text[row + 1].strip()) > 3, field
    assert shipped_recipes()[name], "the list says what it is for"
    assert text[0] == f"recipe {name}"


def test_every_field_has_a_meaning_and_no_other_thing_has():
    doc = Recipe.__doc__ or ""
    listed = [
        line.strip().split(":")[0]
        for line in doc.partition("Attributes:")[2].splitlines()
        if line.startswith(" " * 8) and not line.startswith(" " * 9)
    ]
    assert listed == FIELDS


def test_help_shows_the_command_or_the_recipes_fields(capsys):
    assert run_command(lambda: main(["--help"])) == 0
    out = capsys.readouterr().out
    options = ("--recipe", "--data", "--name", "--out", "--set", "--resume", "--auto-resume")
    more = ("--overwrite", "--devices", "--nodes", "--accelerator", "--tensorboard")
    for word in (*options, *more, "--save-every-s", "python -m train.fit --recipe own"):
        assert word in out
    for name in shipped_recipes():
        assert f"\n  {name} " in out
    assert run_command(lambda: main(["--recipe", "own", "--help", "--set", "epochs=77"])) == 0
    out = capsys.readouterr().out
    assert "  epochs = 77\n      Passes over the training set." in out
    for field in FIELDS:
        assert f"\n  {field} = " in out


def test_help_on_a_recipe_that_is_not_there_is_one_line(capsys):
    assert run_command(lambda: main(["--recipe", "owm", "--help"])) == 1
    assert capsys.readouterr().err.startswith("error: no recipe 'owm'; shipped recipes: ")


def test_what_is_described_can_be_read_again(tmp_path):
    lines = describe("ssv1_r50_8f").splitlines()
    rows = [line.strip().replace(" = ", ": ", 1) for line in lines if line.startswith("  ")]
    kept = [row for row in rows if row.split(":")[0] in FIELDS]
    assert len(kept) == len(FIELDS)
    assert load_recipe(written(tmp_path, "\n".join(kept))) == load_recipe("ssv1_r50_8f")


@pytest.mark.parametrize("preset", ["[tdrl]", "{a: 1}", "tdr", "5", "true"])
def test_a_preset_that_is_none_is_refused(tmp_path, preset):
    with pytest.raises(ValueError, match=r"my\.yaml line 2: preset must be one of .*tsm.*, got "):
        load_recipe(written(tmp_path, f"backbone: tiny\npreset: {preset}\n"))


def test_the_file_holds_against_its_preset_and_the_command_against_both(tmp_path):
    path = written(tmp_path, "backbone: tiny\npreset: tsm\ntd_loss: 0.5\n")
    recipe = load_recipe(path)
    assert (recipe.temporal, recipe.pem, recipe.td_loss) == ("tsm", False, 0.5)
    changed = load_recipe(path, {"preset": "tdrl", "temporal": "none"})
    assert (changed.temporal, changed.pem, changed.td_loss) == ("none", True, 0.5)


@pytest.mark.parametrize("text", ["[", "=", "{a", "'"])
def test_a_value_of_the_command_that_is_no_yaml_names_its_field(text):
    with pytest.raises(ValueError, match=r"^--set epochs=.*: epochs must be .*got "):
        load_recipe("demo", {"epochs": text})


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"backbone: tiny\nepochs: \xe4\n", b"\t- {"])
def test_a_file_that_is_no_text_is_named(tmp_path, text):
    with pytest.raises(DataError, match=r"my\.yaml is no valid YAML"):
        load_recipe(written(tmp_path, text))


def test_a_field_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"my\.yaml is no valid YAML: .*'epochs' is there twice"):
        load_recipe(written(tmp_path, "backbone: tiny\nepochs: 3\nepochs: 4\n"))


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "my.yaml").mkdir()
    with pytest.raises(DataError, match=r"no recipe '.*my\.yaml'"):
        load_recipe(str(tmp_path / "my.yaml"))
