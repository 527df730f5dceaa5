"""`make verify` as a command: what it prints, writes and refuses, on a CPU and a stand-in GPU."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export.proof.session
import export.verify
from export.proof.golden import check_camera_pictures
from export.proof.report import compare_reports, without_folders
from export.verify import default_out, main
from runtime.bundle import GOLDEN, MANIFEST, Bundle, load_bundle, load_golden
from runtime.command import run_command
from runtime.preprocess import fit_picture
from runtime.sessions.ort import OrtStepSession
from tests.export.real_bundle import write_real_bundle
from tests.fake_cuda import GPU
from tests.fake_nvidia import install
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.openvino_part import needs_openvino
from tests.runtime.faults import ForgetfulSession

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--steps", "5", "--paced-steps", "1")
UNTIMED = ("--steps", "0", "--paced-steps", "0")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    # a step every 20 ms, so that pacing costs no time
    return write_mini_bundle(tmp_path / "bundle", window_s=0.08)


@pytest.fixture
def run(bundle, tmp_path, capsys):
    """`run(*arguments)`: status, standard output, last line of errors, the report or None."""

    def command(*arguments: str, folder: Path = bundle.folder):
        out = tmp_path / "out" / "report.json"
        out.unlink(missing_ok=True)
        everything = [str(folder), "--backend", "ort", "--out", str(out), *arguments]
        status = run_command(lambda: main(everything))
        said, errors = capsys.readouterr()
        report = json.loads(out.read_text()) if out.exists() else None
        assert not list(tmp_path.rglob("*.part*"))
        return status, said, (errors.splitlines() or [""])[-1], report

    return command


@needs_openvino
def test_a_good_device_by_openvino(run):
    status, _, last, report = run(*UNTIMED, "--backend", "openvino", "--streams", "3")
    assert status == 0
    assert re.fullmatch(r"int8: OpenVINO 20\S+, CPU, int8", last)
    assert report["facts"]["engine"] == "OpenVINO on the CPU"
    assert [len(proof["checks"]) for proof in report["proofs"]] == [4, 4]
    assert report["passed"] is True


def test_a_good_device(run, bundle):
    status, said, _, report = run(*QUICK)
    assert status == 0
    assert said.splitlines()[-1].startswith("verified: this device computes what mini promises")
    assert report["passed"] is True
    assert [proof["precision"] for proof in report["proofs"]] == ["float32", "int8"]
    for proof in report["proofs"]:
        assert [check["name"] for check in proof["checks"]] == [
            "one phase",
            "two phases",
            "rows with the same frames",
            "rows with frames of their own",
        ]
        schedules = [(timing["schedule"], timing["part"]) for timing in proof["timings"]]
        assert len(schedules) == 9
        assert schedules[-1] == ("back to back", "step of 2 rows")
        assert all(timing["p50_ms"] <= timing["max_ms"] for timing in proof["timings"])
        assert f"| {proof['precision']} | paced | total | 1 |" in said
    int8 = report["proofs"][1]["checks"][0]
    assert int8["float_db"] < int8["sqnr_db"]
    assert report["graphs"] == bundle.sha256
    # what `python -m export.predict --measured` finds its row by
    assert report["model"] == bundle.model
    assert report["size_px"] == [bundle.picture.height_px, bundle.picture.width_px]
    assert "redicted" not in said  # of this machine nothing was
    assert report["facts"]["engine"] == "ONNX Runtime on the CPU"
    assert "camera picture 1, 1280 x 720" in said
    assert report["live_interval_ms"] == 20
    assert "A live stream steps every 20 ms." in said


def test_the_report_names_no_host_and_no_path(run, tmp_path):
    text = json.dumps(run(*QUICK)[3])
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert platform.node() not in text


def test_rows_and_precision_are_chosen(run):
    _, _, _, report = run(*UNTIMED, "--precision", "int8", "--streams", "3")
    (proof,) = report["proofs"]
    assert proof["precision"] == "int8"
    assert [check["steps"] for check in proof["checks"]] == [12, 24, 36, 36]
    assert proof["timings"] == []
    _, _, _, report = run(*UNTIMED, "--streams", "1")
    assert [len(proof["checks"]) for proof in report["proofs"]] == [2, 2]


def test_float16_is_verified_where_the_bundle_has_it(run, tmp_path):
    whole = write_mini_bundle(tmp_path / "whole", fp16=True)
    status, _, _, report = run(*UNTIMED, folder=whole.folder)
    assert status == 0
    assert [proof["precision"] for proof in report["proofs"]] == ["float32", "float16", "int8"]
    assert [proof["checks"][0]["needed_db"] for proof in report["proofs"]] == [40, 30, 20]


def test_a_wrong_engine_is_reported_whole(run, monkeypatch):
    """One precision fails; the other is still checked, and the report tells both."""

    def spoilt(bundle, precision, phases, threads):
        session = OrtStepSession(bundle, precision, phases, threads)
        return ForgetfulSession(session) if precision == "float32" else session

    monkeypatch.setattr(export.proof.session, "OrtStepSession", spoilt)
    status, said, error, report = run(*QUICK)
    assert status == 1
    assert error.startswith(
        "error: float32, one phase: first bad step is golden step 1 (phase 0, row 0): logit of "
    )
    assert "needed 40. It usually means: every step gives what a restart gives" in error
    assert "| float32 | one phase | 12 |" in said
    assert "**FAILED** float32, one phase" in said
    assert "verified" not in said
    assert report["passed"] is False
    bad, good = report["proofs"]
    assert bad["timings"] == []  # how fast a wrong answer comes tells nothing
    assert bad["checks"][0]["bad"]["visit"] == {"phase": 0, "row": 0, "step": 1}
    assert len(good["checks"]) == 4
    assert len(good["timings"]) == 9


def test_logits_that_are_no_numbers_fit_into_json(run, monkeypatch):
    class Broken(ForgetfulSession):
        def step(self, phase, frames, reset, held=None):
            return super().step(phase, frames, reset, held) * np.float32("nan")

    monkeypatch.setattr(
        export.proof.session, "OrtStepSession", lambda *args: Broken(OrtStepSession(*args))
    )
    status, _, error, report = run(*UNTIMED, "--precision", "int8")
    assert status == 1
    assert "is nan, expected" in error
    assert report["proofs"][0]["checks"][0]["bad"]["got"] is None


def test_wrong_preprocessing(bundle):
    golden = load_golden(bundle)

    def causes(fit):
        checks = check_camera_pictures(bundle, golden, fit)
        assert not any(check.passed for check in checks)
        return {check.cause for check in checks}

    assert all(check.passed for check in check_camera_pictures(bundle, golden))
    assert causes(lambda frame, rule: fit_picture(frame, rule)[..., ::-1]) == {
        "red and blue are swapped"
    }
    assert causes(lambda frame, rule: fit_picture(frame, rule) // 2) == {
        "the crop rule differs, or this OpenCV resizes differently"
    }


def test_a_crop_that_is_off_by_three(tmp_path, step_of):
    bundle = write_real_bundle(tmp_path / "real", step_of("tiny", "pem-tsm"))
    golden = load_golden(bundle)
    checks = check_camera_pictures(
        bundle, golden, lambda frame, rule: fit_picture(np.roll(frame, 3, axis=1), rule)
    )
    assert not checks[0].passed
    assert checks[0].cause == "the crop is off by x -3, y +0 pixels of the camera"


def test_a_failed_picture_ends_the_run_with_status_1(run, monkeypatch):
    monkeypatch.setattr(
        export.verify,
        "check_camera_pictures",
        lambda bundle, golden: check_camera_pictures(
            bundle, golden, lambda frame, rule: fit_picture(frame, rule)[..., ::-1]
        ),
    )
    status, _, error, report = run(*UNTIMED)
    assert status == 1
    assert error.startswith("error: golden camera picture 0 differs by")
    assert "red and blue are swapped" in error
    assert report["passed"] is False


def _changed_file(bundle):
    (bundle.folder / "step.onnx").write_bytes(b"something else")


def _no_golden(bundle):
    (bundle.folder / GOLDEN).unlink()


def _broken_golden(bundle):
    (bundle.folder / GOLDEN).write_bytes(b"no archive")
    write_manifest(bundle)


def _other_schema(bundle):
    write_manifest(bundle, schema_version=7)


def _no_manifest(bundle):
    (bundle.folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_changed_file, "step.onnx does not match its hash"),
        (_no_golden, "golden.npz is missing"),
        (_broken_golden, "golden.npz cannot be read"),
        (_other_schema, "has schema_version 7, this runtime reads"),
        (_no_manifest, "run `make demo` or pass --bundle"),
    ],
)
def test_a_bad_bundle_is_one_line(run, bundle, spoil, message):
    spoil(bundle)
    status, said, error, report = run(*UNTIMED)
    assert status == 1
    assert error.startswith("error: ")
    assert message in error
    assert said == ""
    assert report is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--streams", "0"), "--streams must be >= 1, got 0"),
        (("--steps", "-1"), "--steps and --paced-steps must be >= 0"),
        (("--threads", "0"), "threads must be >= 1"),
        (("--against", "no-such.json"), "no-such.json is no report of `make verify`"),
        (("--precision", "int8"), "has no step_int8 graph"),
    ],
)
def test_bad_arguments_are_one_line(run, tmp_path, arguments, message):
    plain = write_mini_bundle(tmp_path / "plain", int8=False)
    status, _, error, report = run(*arguments, folder=plain.folder)
    assert status == 1
    assert message in error
    assert report is None


def test_golden_logits_that_are_not_there(run, bundle):
    with np.load(bundle.folder / GOLDEN) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    kept["logits_int8"] = kept["logits_int8"][:0]
    np.savez(bundle.folder / GOLDEN, **kept)
    write_manifest(bundle)
    status, _, error, _ = run(*UNTIMED)
    assert status == 1
    assert "no golden logits for int8" in error


def faster(report, factor, part="step"):
    """The report as if the device had been so many times as fast."""
    copy = json.loads(json.dumps(report))
    for proof in copy["proofs"]:
        for timing in proof["timings"]:
            if timing["part"] == part:
                timing["p95_ms"] /= factor
    return copy


def test_against_an_earlier_run(run, tmp_path):
    *_, report = run(*QUICK)
    before = tmp_path / "before.json"
    before.write_text(json.dumps(faster(report, 1e3)))
    status, said, error, after = run(*QUICK, "--against", str(before))
    assert status == 1
    assert "error: slower than" in error
    assert "float32, back to back, step: p95" in error
    assert "| precision | schedule | part | p95 ms before | now | ratio |" in said
    assert after["passed"] is True  # it is right, and slow


def test_the_earlier_report_is_not_replaced(run, bundle, tmp_path, capsys):
    *_, report = run(*UNTIMED)
    before = tmp_path / "before.json"
    before.write_text(json.dumps(report))
    same = [str(bundle.folder), "--out", str(before), "--against", str(before), "--backend", "ort"]
    assert run_command(lambda: main([*same, *UNTIMED])) == 1
    assert "pass another --out" in capsys.readouterr().err
    assert json.loads(before.read_text()) == report


def test_what_a_comparison_judges(run):
    *_, report = run(*QUICK)
    assert compare_reports(report, report).slower == []
    assert compare_reports(report, report).remarks == []
    assert compare_reports(report, faster(report, 1.29)).slower == []
    slower = compare_reports(report, faster(report, 1.31)).slower
    assert len(slower) == 4  # two precisions, two schedules
    assert "is 1.31 times" in slower[0]
    assert len(compare_reports(report, faster(report, 2, "step of 2 rows")).slower) == 2
    # microseconds of decision are no regression
    assert compare_reports(report, faster(report, 9, "decide")).slower == []
    other = json.loads(json.dumps(report))
    other["facts"]["power_mode"] = "15W"
    other["graphs"]["step.onnx"] = "0"
    assert compare_reports(report, other).remarks == [
        "another bundle, or another export of it",
        "power_mode was 15W, is None",
    ]


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"verify_version": 99}'])
def test_what_is_no_report(run, tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    status, _, error, report = run(*UNTIMED, "--against", str(path))
    assert status == 1
    assert "is no report of `make verify`" in error
    assert report is None


def test_nothing_in_common(run, tmp_path):
    *_, report = run(*UNTIMED)
    before = tmp_path / "before.json"
    before.write_text(json.dumps(report))
    status, _, error, _ = run(*QUICK, "--against", str(before))
    assert status == 1
    assert "no measurement in common" in error


def test_where_the_report_goes(bundle, tmp_path, monkeypatch):
    assert default_out(bundle) == Path("verify-mini.json")
    artifacts = tmp_path / "artifacts"
    shutil.copytree(bundle.folder, artifacts / "kitchen" / "bundle")
    monkeypatch.setattr(export.verify, "ARTIFACTS", artifacts)
    inside = load_bundle(artifacts / "kitchen" / "bundle")
    assert default_out(inside) == artifacts / "kitchen" / "verify.json"


def test_folders_leave_messages():
    assert (
        without_folders("/a b/c.onnx: ~/x/y.plan, http://h/p") == "a b/c.onnx: y.plan, http://h/p"
    )
    assert without_folders("no path, 1/2") == "no path, 1/2"


def test_on_a_device(bundle, tmp_path, monkeypatch, capsys):
    """TensorRT: engines are built, kept and found again; one for each number of rows."""
    machine = install(monkeypatch)
    out = tmp_path / "report.json"
    arguments = [str(bundle.folder), "--backend", "tensorrt", "--out", str(out), *QUICK]
    arguments += ["--engine-dir", str(tmp_path / "engines")]
    assert run_command(lambda: main(arguments)) == 0, capsys.readouterr().err
    assert machine.builds == 4
    machine.check_clean()
    report = json.loads(out.read_text())
    assert report["facts"]["engine"] == "tensorrt 10.3.0"
    assert report["facts"]["gpu"] == GPU
    assert report["facts"]["compute_capability"] == "8.7"
    assert all(len(proof["checks"]) == 4 for proof in report["proofs"])
    assert run_command(lambda: main(arguments)) == 0
    assert machine.builds == 4


def test_a_build_that_fails(bundle, tmp_path, monkeypatch, capsys):
    machine = install(monkeypatch)
    machine.fail = "deserialise"
    out = tmp_path / "report.json"
    engines = tmp_path / "engines"
    arguments = [str(bundle.folder), "--backend", "tensorrt", "--out", str(out), *UNTIMED]
    status = run_command(lambda: main([*arguments, "--engine-dir", str(engines)]))
    assert status == 1
    assert "error: float32: " in capsys.readouterr().err
    proofs = json.loads(out.read_text())["proofs"]
    assert [proof["checks"] for proof in proofs] == [[], []]
    for proof in proofs:
        assert "The engine plan file is not compatible" in proof["error"]
        assert str(tmp_path) not in proof["error"]


def test_tensorrt_that_is_not_here(bundle, tmp_path, monkeypatch, capsys):
    for name in ("tensorrt", "tensorrt_rtx", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    arguments = [str(bundle.folder), "--backend", "tensorrt", "--out", str(tmp_path / "r.json")]
    assert run_command(lambda: main([*arguments, *UNTIMED])) == 1
    assert "pass --backend ort" in capsys.readouterr().err


def test_runs_without_torch(bundle, tmp_path):
    """A device has no torch, no onnx and none of the training room."""
    blocked = ("torch", "onnx", "tqdm", "train", "calib", "tensorrt_rtx", "pycuda")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from export.verify import main\n"
        f"sys.exit(main([{str(bundle.folder)!r}, '--backend', 'ort', *{QUICK!r}, "
        f"'--out', {str(tmp_path / 'r.json')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "verified: " in done.stdout
