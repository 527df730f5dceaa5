"""Experiments: many runs of this project's commands, a few at a time, finished ones kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from runtime.artifacts import ARTIFACTS
from runtime.errors import DataError
from runtime.files import write_json

ROOT = ARTIFACTS.parent

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def run_all(
    tasks: Sequence[Task], run: Callable[[Task], Outcome], *, jobs: int, title: str
) -> list[Outcome]:
    """Run tasks, some at a time, with a progress bar; results in the order of the tasks.

    Args:
        tasks: What to do.
        run: Does one; after an error no other task begins.
        jobs: Tasks at a time, >= 1.
        title: Of the bar.
    """
    bar = tqdm(total=len(tasks), desc=title, disable=None)
    failed = threading.Event()

    def one(task: Task) -> Outcome:
        # the pool takes its next task before anybody hears of the error
        if failed.is_set():
            raise DataError("left out, an earlier task failed")
        try:
            outcome = run(task)
        except BaseException:
            failed.set()
            raise
        bar.update()
        return outcome

    with bar, ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, tasks))


def command(module: str, arguments: Sequence[str], *, jobs: int = 1) -> None:
    """Run a command of this project; its output is shown only if it fails.

    Args:
        module: `train.fit`, ...
        arguments: Its arguments.
        jobs: Commands at a time: each takes its share of the cores.

    Raises:
        DataError: It failed; its last line says why.
    """
    environment = {**os.environ}
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = said[-1] if said else f"it said nothing, its status is {done.returncode}"
        raise DataError(f"python -m {module} {' '.join(arguments)} failed: {last}")


def kept(path: Path, settings: Sequence[str]) -> dict[str, Any] | None:
    """What an earlier run with the same settings left, see `keep`."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.pop("settings", None) == list(settings) else None


def keep(path: Path, settings: Sequence[str], result: dict[str, Any]) -> None:
    """Keep a finished run's result with the settings it was made with."""
    write_json(path, {**result, "settings": list(settings)})
