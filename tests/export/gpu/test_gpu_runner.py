"""Parts run in processes of their own: whatever happens to one, the others run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export import gpu_check
from export.gpu.effort import EFFORTS, ON_CPU, Effort
from export.gpu.parts import PARTS, TOTAL_S
from export.gpu.report import Report
from export.gpu.row import CheckFailed, Row, row_of, skipped
from export.gpu.runner import Outcome, Part, run_parts
from runtime.command import run_command

ROOT = Path(__file__).resolve().parents[3]


def fine(effort: Effort) -> Iterator[Row]:
    yield Row(what=effort.trained, value=1.5, unit="ms")
    yield skipped("more", "no GPU")


def wrong(effort: Effort) -> Iterator[Row]:
    yield Row(what="difference", value=2.0)
    raise CheckFailed("steps differ\nfrom the clip")


def broken(effort: Effort) -> Iterator[Row]:
    yield Row(what="before", value=1.0)
    raise ZeroDivisionError("by zero")


def dies(effort: Effort) -> Iterator[Row]:
    yield Row(what="before", value=1.0)
    os._exit(7)


def hangs(effort: Effort) -> Iterator[Row]:
    yield Row(what="before", value=1.0)
    time.sleep(600)


def misses_a_library(effort: Effort) -> Iterator[Row]:
    importlib.import_module("no_such_library")

    yield Row(what="never", value=1.0)


def misses_our_own(effort: Effort) -> Iterator[Row]:
    importlib.import_module("export.no_such_module")

    yield Row(what="never", value=1.0)


def nothing_works(effort: Effort) -> Iterator[Row]:
    yield skipped("all of it", "no GPU")


def sees_gpus(effort: Effort) -> Iterator[Row]:
    yield Row(what=f"visible: {os.environ.get('CUDA_VISIBLE_DEVICES')!r}", value=1.0)


def part(rows: Any, *, budget_s: float = 60.0, proves: bool = True) -> Part:
    return Part(rows.__name__, "a part", budget_s, proves, rows)


def run(*parts: Part, total_s: float = 60.0) -> list[Outcome]:
    return list(run_parts(parts, ON_CPU, total_s=total_s, on_row=lambda name, row: None))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Everything that can go wrong, in one run; the last part is fine."""
    parts = (wrong, broken, dies, misses_a_library, misses_our_own, nothing_works, sees_gpus, fine)
    return {outcome.part.name: outcome for outcome in run(*map(part, parts))}


@pytest.mark.parametrize(
    ("name", "status", "reason", "is_bad", "num_rows"),
    [
        ("wrong", "failed", "steps differ from the clip", True, 1),
        ("broken", "failed", "ZeroDivisionError: by zero", True, 1),
        ("dies", "failed", "its process ended with status 7", True, 1),
        ("misses_a_library", "skipped", "No module named 'no_such_library'", False, 0),
        ("misses_our_own", "failed", "No module named 'export.no_such_module'", True, 0),
        ("nothing_works", "skipped", "nothing of it works here", False, 1),
        ("sees_gpus", "done", "", False, 1),
        ("fine", "done", "", False, 2),
    ],
)
def test_one_part_does_not_stop_the_others(
    outcomes: dict[str, Outcome],
    name: str,
    status: str,
    reason: str,
    is_bad: bool,
    num_rows: int,
) -> None:
    outcome = outcomes[name]
    assert (outcome.status, outcome.reason, outcome.is_bad) == (status, reason, is_bad)
    assert len(outcome.rows) == num_rows
    assert 0 < outcome.seconds < 60


def test_a_trial_on_a_cpu_sees_no_gpu(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["sees_gpus"].rows[0].what == "visible: ''"


@pytest.mark.parametrize("proves", [True, False])
def test_a_part_has_its_time_and_no_more(proves: bool) -> None:
    started_s = time.monotonic()
    late, after = run(part(hangs, budget_s=4.0, proves=proves), part(fine))
    assert time.monotonic() - started_s < 40
    assert (late.status, late.reason) == ("stopped", "out of time; what it had found is kept")
    assert late.is_bad == proves, "a measurement may be cut short, a proof may not"
    assert after.status == "done"


@pytest.mark.slow
def test_what_was_found_in_time_is_kept() -> None:
    (late,) = run(part(hangs, budget_s=20.0))
    assert [row.what for row in late.rows] == ["before"]
    assert late.not_done == ["stopped: out of time; what it had found is kept"]


def test_all_parts_together_have_a_limit() -> None:
    outcomes = run(part(hangs), part(fine), total_s=6.0)
    assert [outcome.status for outcome in outcomes] == ["stopped", "stopped"]
    assert outcomes[1].reason == "not begun: the 6 s for all are over"


def test_the_parts_fit_into_eight_minutes() -> None:
    assert sum(part.budget_s for part in PARTS) <= TOTAL_S == 480
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert {part.name for part in PARTS if part.proves} == {"learning", "resume", "law"}


def test_the_pages(tmp_path: Path) -> None:
    good = Outcome(part(fine), rows=list(fine(ON_CPU)), seconds=2.4)
    bad = Outcome(part(wrong), "failed", "steps | differ", 1.0, [Row(what="a|b", value=2.0)])
    report = Report("Measured on a computer.", ON_CPU, [good, bad])
    page = report.markdown()
    assert "| fine | tiny | 1.50 ms |  |" in page
    assert "| wrong | a\\|b | 2.00 |  |" in page
    assert "| wrong | failed | 1 |" in page
    assert "- fine: more: no GPU" in page
    assert "- wrong: failed: steps \\| differ" in page
    assert "its numbers say nothing about a GPU" in page
    assert "nothing about a GPU" not in replace(report, effort=EFFORTS["cuda"]).markdown()
    assert page.endswith("Measured on a computer.\n")
    data = json.loads(json.dumps(report.to_json()))
    assert data["passed"] is False
    assert data["parts"][0]["rows"][0]["value"] == 1.5
    assert replace(report, outcomes=[good]).to_json()["passed"] is True


def test_spreads() -> None:
    row = row_of("step", [float(number) for number in range(1, 22)], "ms")
    assert (row.low, row.value, row.high) == (3.0, 11.0, 19.0)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status = run_command(lambda: gpu_check.main([]))
    said = capsys.readouterr()
    assert status == 1
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "finds no NVIDIA GPU here" in said.err
    assert "--device cpu" in said.err


def test_no_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run_command(lambda: gpu_check.main(["--only", "law"])) == 1
    assert "torch" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """One real part, through the command line."""
    command = [sys.executable, "-m", "export.gpu_check", "--device", "cpu", "--only", "law"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("law       tiny: clip against 4 steps")
    assert lines[-1] == f"passed; done: law; {tmp_path}/gpu-check.md and .json"
    data = json.loads((tmp_path / "gpu-check.json").read_text())
    assert data["passed"] is True
    assert [entry["part"] for entry in data["parts"]] == ["law"]
    assert "| law | tiny: clip against 4 steps" in (tmp_path / "gpu-check.md").read_text()


def test_a_failure_is_written_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "PARTS", (part(wrong), part(fine)))
    arguments = ["--device", "cpu", "--out", str(tmp_path)]
    assert run_command(lambda: gpu_check.main(arguments)) == 1
    said = capsys.readouterr()
    assert "error: wrong: steps differ from the clip (all of it in" in said.err
    assert "fine      done after" in said.out
    assert json.loads((tmp_path / "gpu-check.json").read_text())["passed"] is False


@pytest.mark.parametrize("text", ["0", "-1", "nan"])
def test_no_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", "cpu", "--minutes", text])
    assert "must be > 0" in capsys.readouterr().err
