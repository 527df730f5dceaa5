"""The clip graph of any checkpoint, also of those that give no bundle."""

from __future__ import annotations

import numpy as np
import pytest

from export.clip import clip_onnx_from_checkpoint, main
from export.parity import Parity
from runtime.command import run_command
from runtime.errors import ExportError
from tests.export.small import ort_session, write_checkpoint
from train.model.unit import UnitConfig


@pytest.fixture
def lookahead(data, tmp_path):
    path = tmp_path / "best.ckpt"
    write_checkpoint(path, data, UnitConfig(form="lookahead", shift_div=4), steps=1)
    return path


def test_a_lookahead_checkpoint_has_a_clip_graph(lookahead, tmp_path, capsys):
    out = tmp_path / "clip.onnx"
    assert run_command(lambda: main(["--checkpoint", str(lookahead), "--out", str(out)])) == 0
    assert "of the logits' range off the model" in capsys.readouterr().out
    clip = np.zeros((1, 8, 32, 32, 3), np.uint8)
    assert ort_session(out).run(None, {"clip": clip})[0].shape[:2] == (1, 8)


def test_a_graph_that_says_something_else_is_not_written(lookahead, tmp_path, monkeypatch):
    apart = Parity(steps=8, max_abs=1.0, logits_range=1.0, sqnr_db=0.0, same_top1=0.0)
    monkeypatch.setattr("export.clip.compare", lambda got, expected: apart)
    with pytest.raises(ExportError, match=r"clip\.onnx"):
        clip_onnx_from_checkpoint(lookahead, tmp_path / "clip.onnx")
    assert [path.name for path in tmp_path.iterdir()] == [lookahead.name]
