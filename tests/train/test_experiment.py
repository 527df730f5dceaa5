"""Many runs of commands: their order, what is kept, and what a failure says."""

import threading
import time

import pytest

from runtime.errors import DataError
from train.experiment import command, keep, kept, run_all


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_tasks(jobs):
    def run(task):
        time.sleep(0.02 * (3 - task))
        return f"did {task}"

    assert run_all([0, 1, 2], run, jobs=jobs, title="x") == ["did 0", "did 1", "did 2"]
    assert run_all([], run, jobs=jobs, title="x") == []


def test_so_many_run_at_a_time():
    barrier = threading.Barrier(2, timeout=10)
    assert run_all([1, 2], lambda task: barrier.wait() * 0 + task, jobs=2, title="x") == [1, 2]


def test_after_an_error_no_other_task_begins():
    begun = []

    def run(task):
        begun.append(task)
        if task == 1:
            raise DataError("task 1 failed")

    for _ in range(20):
        begun.clear()
        with pytest.raises(DataError, match="task 1 failed"):
            run_all(range(50), run, jobs=1, title="x")
        assert begun == [0, 1]


def test_only_a_result_of_the_same_settings_is_kept(tmp_path):
    path = tmp_path / "run" / "result.json"
    assert kept(path, ["demo", "epochs=3"]) is None
    keep(path, ["demo", "epochs=3"], {"top1": 0.5})
    assert kept(path, ("demo", "epochs=3")) == {"top1": 0.5}
    assert kept(path, ["demo", "epochs=4"]) is None
    assert kept(path, ["demo"]) is None


def test_a_command_that_fails_says_its_last_line(capfd):
    with pytest.raises(DataError) as caught:
        command("json.tool", ["/nowhere/file.json"])
    text = str(caught.value)
    assert text.startswith("python -m json.tool /nowhere/file.json failed: ")
    assert "No such file or directory: '/nowhere/file.json'" in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_a_command_that_fails_without_a_word_says_its_status(monkeypatch, tmp_path):
    (tmp_path / "silent.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DataError, match="silent a b failed: it said nothing, its status is 7"):
        command("silent", ["a", "b"])


def test_commands_beside_each_other_share_the_cores(monkeypatch, tmp_path):
    """One alone takes what the caller's environment says."""
    out = tmp_path / "threads"
    text = f"import os\nopen({str(out)!r}, 'a').write(os.environ.get('OMP_NUM_THREADS', '-'))\n"
    (tmp_path / "threads.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    for jobs in (1, 2, 8):
        command("threads", [], jobs=jobs)
    assert out.read_text() == "931"
