"""The ablation: rows are valid recipes, finished runs are kept, the page says what was measured."""

import json

import pytest

from runtime.errors import DataError
from train import ablation
from train.ablation import ROWS, Outcome, ablate, chosen_rows, table, write_page
from train.recipe_file import load_recipe

TSM, TDRL = chosen_rows("tsm,tdrl")


def outcomes():
    return [
        Outcome("tsm", 0, 0.70, 0.71, 60.0),
        Outcome("tsm", 1, 0.80, 0.81, 62.0),
        Outcome("tdrl", 0, 0.90, 0.91, 90.0),
        Outcome("tdrl", 1, 0.90, 0.89, 90.0),
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_every_row_is_a_valid_recipe_that_differs(row):
    recipe = load_recipe(ablation.RECIPE, dict(row.changes))
    if row.key != "tdrl":
        assert recipe != load_recipe(ablation.RECIPE)


def test_rows_have_keys_of_their_own_and_different_recipes():
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert len({repr(load_recipe(ablation.RECIPE, dict(row.changes))) for row in ROWS}) == len(ROWS)


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="unknown 'tdr'"):
        chosen_rows("tsm,tdr")


def test_the_table_gives_mean_and_deviation():
    text = table([TSM, TDRL], outcomes())
    assert "| TSM, causal | 75.0 ± 7.1 % | 76.0 ± 7.1 % | 2 | 1.0 min |" in text
    assert "| TDRL, causal | 90.0 ± 0.0 % |" in text
    assert text.count("**Models**") == 1


def test_the_page_keeps_what_a_person_wrote(tmp_path):
    page = write_page([TSM, TDRL], outcomes(), tmp_path)
    assert (tmp_path / "ablation.png").stat().st_size > 5_000
    page.write_text(page.read_text() + "## Reading\n\nTDRL wins.\n")
    text = write_page([TSM], outcomes()[:2], tmp_path).read_text()
    assert text.endswith("## Reading\n\nTDRL wins.\n")
    assert "TDRL, causal" not in text
    assert len(json.loads((tmp_path / "ablation.json").read_text())) == 2


def test_finished_runs_are_kept_and_others_are_made(tmp_path, monkeypatch):
    commands = []

    def command(module, arguments, jobs):
        commands.append(module)
        if module == "train.evaluate":
            out = tmp_path / "runs" / "tsm-0" / "evaluation"
            out.mkdir(parents=True)
            found = {"clip_top1": 0.5, "order_control": 0.6}
            (out / "evaluation.json").write_text(json.dumps(found))

    monkeypatch.setattr(ablation, "command", command)
    monkeypatch.setattr(ablation, "build", lambda *_: None)
    first = ablate([TSM], [0], tmp_path / "runs", jobs=1)
    assert commands == ["train.fit", "train.evaluate"]
    assert (first[0].top1, first[0].pairs) == (0.5, 0.6)
    assert ablate([TSM], [0], tmp_path / "runs", jobs=1) == first
    assert len(commands) == 2
    with pytest.raises(FileExistsError):  # other settings: made again
        ablate([TSM], [0], tmp_path / "runs", jobs=1, sets=["epochs=1"])


def test_a_run_that_fails_is_named_with_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "build", lambda *_: None)
    with pytest.raises(DataError, match=r"train\.fit .* failed: .*epochs"):
        ablate([TSM], [0], tmp_path / "runs", jobs=1, sets=["epochs=-1"])
