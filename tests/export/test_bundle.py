"""Checkpoint to bundle: what is in it, and that a failure never costs the old one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import calib.record
import export.bundle
from calib.clip_list import CalibrationClip, read_clip_list
from calib.recording import Recording
from export.bundle import ExportOptions, build_bundle, clip_graph_logits, main
from export.bundle_folder import replaced_folder
from export.calibration_clips import calibration_clips, comparison
from export.checks.preflight import preflight
from export.gate import clip_gate
from export.half_check import half_check, rounded_session
from export.held_out import held_out_clips
from export.int8.quantise import reference_session, steps_of
from export.parity import compare, session_clips
from export.report.verdict import read_report
from runtime.bundle import GRAPH_OF, Precision, load_bundle, load_golden
from runtime.command import run_command
from runtime.errors import BundleError, CheckpointError, DataError, ExportError, GateError
from runtime.files import sha256_of
from runtime.selftest import run_self_test
from runtime.sessions.ort import OrtStepSession
from tests.export.report_example import report_example, stream_example
from tests.export.small import SQUARE, UNITS, write_checkpoint
from train.checkpoint import load_checkpoint
from train.data.arrow_of_time import LABELS
from train.evaluate import clip_logits, load_clips, top1_of
from train.model.unit import UnitConfig

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = {"clip.onnx", "step.onnx", "step.fp16.onnx", "step.int8.onnx"}
FILES = {"bundle.json", "golden.npz", "report.html", "report.json", *GRAPHS}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """The commands' default cache folder is not that of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "user-cache"))


def contents(folder):
    """Every file under a folder with its hash: what must not change."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what is in it


def test_the_folder_is_all_that_a_device_needs(built):
    assert set(listing(built.bundle.folder)) == FILES
    bundle = load_bundle(built.bundle.folder)
    assert bundle == built.bundle
    assert set(bundle.sha256) == FILES - {"bundle.json"}
    for name, digest in bundle.sha256.items():
        data = (bundle.folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest


def test_a_changed_manifest_is_refused(built, tmp_path):
    """Any byte of it: the change is refused, or it says the same (a blank, the hash's own name)."""
    folder = tmp_path / "bundle"
    shutil.copytree(built.bundle.folder, folder)
    path = folder / "bundle.json"
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"slide_left"', b'"slide_lefu"'))
    with pytest.raises(BundleError, match=r"bundle\.json was changed after the export"):
        load_bundle(folder)
    same = replace(built.bundle, folder=folder)
    refused = 0
    for at in range(0, len(text), len(text) // 60):
        path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        try:
            assert load_bundle(folder) == same
        except BundleError:
            refused += 1
    assert refused > 30


def test_the_manifest_says_what_the_checkpoint_says(built, checkpoint):
    _, facts = load_checkpoint(checkpoint)
    bundle = built.bundle
    assert bundle.labels == LABELS == facts.labels
    assert bundle.picture == SQUARE == facts.picture
    assert bundle.sampling == facts.sampling
    assert bundle.operating == facts.operating
    assert bundle.operating.temperature == 1.25
    assert bundle.name == "small"
    assert bundle.model["backbone"] == "tiny"
    assert bundle.model["form"] == "causal"
    assert bundle.model["parameters"] > 100_000
    assert set(bundle.graphs) == {"step", "step_fp16", "step_int8", "clip"}
    assert {"python", "torch", "onnx", "onnxruntime", "numpy"} <= set(bundle.versions)
    assert bundle.created_utc.endswith("+00:00")


def test_states_are_listed_with_each_graphs_dtype(built):
    of_float, of_int8 = (built.bundle.graph(kind).states for kind in ("step", "step_int8"))
    assert [state.dtype for state in of_float] == 5 * ["float32"]
    assert built.bundle.graph("step_fp16").states == of_float
    assert [state.dtype for state in of_int8] == ["float32"] + 4 * ["int8"]
    for one, other in zip(of_float, of_int8, strict=True):
        assert replace(other, dtype="float32") == one


def test_graphs_pass_preflight(built):
    bundle = built.bundle
    precisions: tuple[Precision, ...] = ("float32", "float16", "int8")
    # the search may keep convolutions in float; then the report names them, as at the export itself
    kept: dict[Precision, tuple[str, ...]] = dict.fromkeys(precisions, ())
    kept["int8"] = tuple(built.report["quantisation"]["sensitivity"]["kept_float"])
    for precision in precisions:
        kind = GRAPH_OF[precision]
        path, states = bundle.graph_path(kind), bundle.graph(kind).states
        found = preflight(path, states=states, precision=precision, float_convs=kept[precision])
        assert found == []


def test_accuracies_are_those_of_the_graphs(built, checkpoint, data):
    """Measured once more from the outside: PyTorch for float, a session for INT8."""
    model, facts = load_checkpoint(checkpoint)
    clips = load_clips(data, "validation", facts)
    logits = clip_logits(model, clips.pictures)
    accuracy = built.bundle.accuracy
    assert accuracy["clip_top1_float32"] == pytest.approx(top1_of(logits, clips.label), abs=1e-6)
    pictures = clips.pictures.permute(0, 1, 3, 4, 2).contiguous().numpy()
    with reference_session(built.bundle, built.bundle.graph("step_int8")) as session:
        int8 = session_clips(session, pictures)
    right = int8.argmax(1) == clips.label.numpy()
    assert accuracy["clip_top1_int8"] == pytest.approx(right.mean(), abs=1e-6)
    agreement = (int8.argmax(1) == logits.numpy().argmax(1)).mean()
    assert accuracy["clip_agreement"] == pytest.approx(agreement, abs=1e-6)
    half = half_check(logits.numpy(), half_logits(built.bundle, pictures), clips.label.numpy())
    assert accuracy["clip_top1_float16"] == pytest.approx(half.top1_half, abs=1e-6)
    assert accuracy["clip_agreement_float16"] == pytest.approx(half.agreement, abs=1e-6)
    assert 0 <= accuracy["live_top1_float32"] <= 1
    assert 0 <= accuracy["live_top1_int8"] <= 1


def half_logits(bundle, pictures):
    """On a copy: the session writes a file beside the graph."""
    with TemporaryDirectory() as folder:
        shutil.copy(bundle.graph_path("step_fp16"), folder)
        with rounded_session(replace(bundle, folder=Path(folder))) as session:
            return session_clips(session, pictures)


def test_the_report_says_how_it_was_made(built):
    report = json.loads((built.bundle.folder / "report.json").read_text())
    assert report == built.report
    assert report["parity"]["relative"] < 1e-5
    assert report["parity"]["steps"] == 64
    assert set(report["quantisation"]["compared"]) == {
        *("minmax", "percentile", "entropy", "mse", "per-tensor")
    }
    assert report["float16"]["count"] == 13
    assert report["float16"]["sqnr_db"] > 40
    gate = report["gate"]
    assert gate["clips"]["count"] == 13
    assert gate["live"]["count"] == 6
    assert gate["allowed_loss"] == 1.0
    assert any("13 clips are too few" in remark for remark in gate["remarks"])
    drift = report["drift"]
    assert drift["steps"] >= drift["wanted_steps"] == 1000
    assert not drift["int8"]["grows"]
    assert drift["onnx_model"]["largest"] < 1e-5
    assert drift["state_math"]["sqnr_db"] > 100
    assert set(drift["kinds"]) == {"PEM", "TSM"}
    assert "long_drift" not in report
    assert report["training"]["data"] == "arrow_of_time"
    assert report["changed"]["count"] == 13
    assert {file["kind"] for file in report["files"]} == set(built.bundle.graphs)
    assert report["verdict"]["ships"]
    reason = report["verdict"]["line"].split(": ", 1)[1]
    assert f"</b> {reason}</p>" in (built.bundle.folder / "report.html").read_text()


def test_golden_logits_are_the_graphs(built):
    golden = load_golden(built.bundle)
    for int8, expected in (
        (None, golden.logits),
        (built.bundle.graph("step_int8"), golden.logits_int8),
    ):
        got = steps_of(built.bundle, golden.frames, golden.reset, int8=int8)
        assert np.array_equal(got, expected)


def test_the_clip_graph_is_the_model(built, checkpoint, data):
    model, facts = load_checkpoint(checkpoint)
    clip = load_clips(data, "validation", facts).pictures[3]
    got = clip_graph_logits(built.bundle, clip.permute(0, 2, 3, 1).contiguous().numpy())
    expected = model(clip[None])[0].detach().numpy()
    assert compare(got, expected).relative < 1e-5


def test_nothing_of_this_machine_is_in_the_bundle(built, checkpoint, data):
    for path in built.bundle.folder.iterdir():
        raw = path.read_bytes()
        for folder in (checkpoint.parent, data, ROOT):
            assert str(folder).encode() not in raw, path


def test_methods_are_compared_on_clips_that_did_not_calibrate(built):
    """13 clips are listed; three of them compare, ten calibrate."""
    clips = read_clip_list(built.bundle.folder.parent / "clips.jsonl")
    assert len(clips) == 13
    assert sorted(clip.label for clip in clips) == sorted(LABELS)
    assert built.report["quantisation"]["calibration_clips"] == 10


def test_a_second_export_streams_no_clip_again(checkpoint, data, tmp_path, capsys, monkeypatch):
    """The observed graph is the same bytes again when all is exported anew."""
    model, facts = load_checkpoint(checkpoint)
    compared = comparison(calibration_clips(data, facts), facts, steps=16)
    cache = tmp_path / "cache"
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bundle = export.bundle._float_bundle(model, facts, tmp_path / name)
        quantised = export.bundle._quantise(
            bundle,
            compared.rest,
            compared.frames,
            cache_dir=cache,
            budget=0.0,
            worst_on=None,
        )
        found.append(sha256_of(tmp_path / name / quantised.graph.file))
        said = capsys.readouterr().out
        before = f"calibration: 10 of 10 clips were recorded before ({cache})"
        assert (before in said.splitlines()) == (name == "second")
        monkeypatch.setattr(calib.record, "_session", None)  # nothing can be streamed any more
    assert found[0] == found[1]
    assert len(list(cache.iterdir())) == 1


def test_the_report_counts_the_calibration_clips(built):
    found = built.report["calibration"]
    assert (found["clips"], found["unreadable"]) == (10, 0)
    assert (found["listed"], found["comparing"]) == (13, 3)
    assert found["steps"] > 10 * 4
    assert found["resets"] == 6


# --- failures


@pytest.fixture
def float_graphs_at_hand(built, monkeypatch):
    """The float graphs come from the bundle that is there: exporting them takes seconds."""

    def ready(_model, _facts, folder, *, float16=True):
        kinds = ("step", "step_fp16", "clip") if float16 else ("step", "clip")
        for kind in kinds:
            shutil.copy(built.bundle.graph_path(kind), folder)
        graphs = {kind: built.bundle.graphs[kind] for kind in kinds}
        return replace(built.bundle, folder=folder, graphs=graphs, sha256={})

    monkeypatch.setattr(export.bundle, "_float_bundle", ready)
    same = np.eye(3, dtype=np.float32)
    monkeypatch.setattr(export.bundle, "_check_float", lambda *_: compare(same, same))


@pytest.fixture
def old(built, tmp_path):
    """A run's folder with an older bundle in it, and its contents."""
    run = tmp_path / "run"
    shutil.copytree(built.bundle.folder, run / "bundle")
    (run / "clips.jsonl").write_text("the old list\n")
    return run, contents(run)


@pytest.mark.usefixtures("float_graphs_at_hand")
def test_a_failing_gate_leaves_the_old_bundle(old, checkpoint, data, monkeypatch):
    run, before = old
    calls = []

    def worse(session, pictures):
        calls.append(session.description)
        logits = session_clips(session, pictures)
        return np.roll(logits, 1, axis=1) if "int8" in session.description else logits

    monkeypatch.setattr(export.bundle, "session_clips", worse)
    with pytest.raises(
        GateError, match=r"INT8 may lose .* of clip top-1 .* of 13\).*refused/report\.html"
    ):
        build_bundle(checkpoint, data, run / "bundle")
    assert len(calls) == 3
    assert listing(run) == ["bundle", "bundle.refused", "clips.jsonl"]
    refused = read_report(run / "bundle.refused")
    assert refused["verdict"]["line"].startswith("Do not ship: INT8 may lose")
    assert "Do not ship" in (run / "bundle.refused" / "report.html").read_text()
    shutil.rmtree(run / "bundle.refused")
    assert contents(run) == before


def test_a_refused_report_goes_when_an_export_passes(tmp_path):
    label = np.zeros(500, np.int64)
    right, wrong = (
        np.tile(np.array([[3, 0]], np.float32), (500, 1)),
        np.tile(np.array([[0, 3]], np.float32), (500, 1)),
    )
    out = tmp_path / "bundle"
    bad, good = (clip_gate(right, int8, label, None) for int8 in (wrong, right))
    with pytest.raises(GateError, match=r"INT8 may lose 100\.00% .*bundle\.refused/report\.html"):
        export.bundle._judged(report_example(), bad, 0.005, out)
    assert not read_report(tmp_path / "bundle.refused")["verdict"]["ships"]
    drifting = {**report_example(), "drift": stream_example(grows=True)}
    with pytest.raises(GateError, match="grows along a stream"):
        export.bundle._judged(drifting, good, 0.005, out)
    assert "grows along" in read_report(tmp_path / "bundle.refused")["verdict"]["line"]
    passed = export.bundle._judged(report_example(), good, 0.005, out)
    assert passed["gate"]["remarks"] == ["a remark"]
    assert listing(tmp_path) == []


@pytest.mark.usefixtures("float_graphs_at_hand")
def test_a_half_graph_that_says_something_else(old, checkpoint, data, monkeypatch):
    run, before = old

    def worse(session, pictures):
        logits = session_clips(session, pictures)
        return np.roll(logits, 1, axis=1) if "float16" in session.description else logits

    def too_early(*_args, **_options):
        raise AssertionError("calibrated before the half graph was judged")

    monkeypatch.setattr(export.bundle, "session_clips", worse)
    monkeypatch.setattr(export.bundle, "quantise", too_early)
    with pytest.raises(
        GateError, match=r"the float16 graph agrees with float on .* of 13 clips.*--no-float16"
    ):
        build_bundle(checkpoint, data, run / "bundle", allowed_loss=1.0)
    assert contents(run) == before


@pytest.mark.usefixtures("float_graphs_at_hand")
def test_a_bundle_without_half_graph_tape_and_most_clips(checkpoint, data, tmp_path, monkeypatch):
    """What is left out is left out everywhere, and said; clips are decoded once."""
    folder, out = tmp_path / "data", tmp_path / "run" / "bundle"
    shutil.copytree(data, folder)
    shutil.rmtree(folder / "tape_validation")
    reads = []

    def counted(*given):
        reads.append(given)
        return held_out_clips(*given)

    monkeypatch.setattr(export.bundle, "held_out_clips", counted)
    options = ("--allowed-loss", "1", "--no-float16", "--gate-clips", "7", "--layer-accuracy")
    assert run_main("--checkpoint", checkpoint, "--data", folder, "--out", out, *options) == 0
    assert len(reads) == 1
    bundle = load_bundle(out)
    assert set(bundle.graphs) == {"step", "step_int8", "clip"}
    assert not any("float16" in name or "live" in name for name in bundle.accuracy)
    assert set(listing(out)) == FILES - {"step.fp16.onnx"}
    report, page = read_report(out), (out / "report.html").read_text()
    assert "float16" not in report
    assert (report["gate"]["clips"]["count"], report["gate"]["validation_clips"]) == (7, 13)
    assert report["gate"]["live"] is None
    first = ["gated on 7 of 13 validation clips, classes equally (--gate-clips)"]
    first += ["live accuracy was not gated: no validation tape"]
    assert report["gate"]["remarks"][:2] == first
    assert all(remark in page for remark in first)
    assert "FP16" not in page


def test_no_half_graph_is_made_where_none_is_wanted(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export.bundle, "fp16_onnx_from_model", None)
    model, facts = load_checkpoint(checkpoint)
    bundle = export.bundle._float_bundle(model, facts, tmp_path, float16=False)
    assert set(bundle.graphs) == {"step", "clip"}
    assert listing(tmp_path) == ["clip.onnx", "step.onnx"]


@pytest.mark.parametrize("count", [0, -3])
def test_a_gate_without_clips_is_refused(count):
    with pytest.raises(ValueError, match=f"at least one clip, got {count} at most"):
        ExportOptions(most_gated=count)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("quantise", KeyboardInterrupt()),
        ("write_golden", OSError("disk full")),
        ("write_report", OSError("disk full")),
        ("write_manifest", KeyboardInterrupt()),
    ],
)
@pytest.mark.usefixtures("float_graphs_at_hand")
def test_a_failure_anywhere_leaves_the_old_bundle(
    old, checkpoint, data, monkeypatch, place, error, built
):
    run, before = old

    def failing(*_args, **_options):
        raise error

    monkeypatch.setattr(export.bundle, place, failing)
    if place != "quantise":  # what comes before is proven elsewhere, and slow
        _skip_to_golden(monkeypatch, built, place)
    with pytest.raises((KeyboardInterrupt, OSError)):
        build_bundle(checkpoint, data, run / "bundle")
    assert contents(run) == before
    assert listing(run) == ["bundle", "clips.jsonl"]
    load_bundle(run / "bundle")


def _skip_to_golden(monkeypatch, built, place):
    def ready(bundle, *_rest, **_options):
        graph = built.bundle.graph("step_int8")
        shutil.copy(built.bundle.folder / graph.file, bundle.folder)
        parts = {"graph": graph, "to_json": dict, "recording": Recording({})}
        parts["float_convs"] = built.report["quantisation"]["sensitivity"]["kept_float"]
        return type("Quantised", (), parts)

    gate = type("Gate", (), {"to_json": lambda _: {}})()
    monkeypatch.setattr(export.bundle, "quantise", ready)
    monkeypatch.setattr(export.bundle, "_gate", lambda *_: (gate, []))
    monkeypatch.setattr(export.bundle, "_accuracies", lambda *_: {})
    monkeypatch.setattr(export.bundle, "_long_streams", lambda *_, **__: {})
    monkeypatch.setattr(export.bundle, "compose", lambda *_: {})
    monkeypatch.setattr(export.bundle, "_judged", lambda report, *_: report)
    if place != "write_report":
        monkeypatch.setattr(export.bundle, "write_report", lambda _, report: report)


@pytest.mark.usefixtures("float_graphs_at_hand")
def test_without_an_old_bundle_a_failure_leaves_nothing(checkpoint, data, tmp_path, monkeypatch):
    def failing(*_args, **_options):
        raise ExportError("no")

    monkeypatch.setattr(export.bundle, "quantise", failing)
    with pytest.raises(ExportError, match="no"):
        build_bundle(checkpoint, data, tmp_path / "bundle")
    assert listing(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from export.bundle_folder import replaced_folder
with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "step.onnx").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_export_leaves_is_swept_by_the_next(old):
    run, before = old
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run / "bundle")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert listing(run) == [".bundle.part", "bundle", "clips.jsonl"]
    assert contents(run / "bundle") == {
        name.removeprefix("bundle/"): digest
        for name, digest in before.items()
        if name.startswith("bundle/")
    }
    with replaced_folder(run / "bundle") as folder:
        assert listing(folder) == []
        (folder / "bundle.json").write_text("new")
    assert listing(run) == ["bundle", "clips.jsonl"]
    assert (run / "bundle" / "bundle.json").read_text() == "new"


def test_killed_between_the_two_renames_loses_nothing(old):
    run, before = old
    (run / "bundle").rename(run / ".bundle.old")
    (run / ".bundle.part").mkdir()
    with pytest.raises(ExportError, match="later"), replaced_folder(run / "bundle"):
        raise ExportError("later")
    assert contents(run) == before
    assert listing(run) == ["bundle", "clips.jsonl"]


def test_the_new_bundle_comes_at_the_very_end(old):
    run, before = old
    with replaced_folder(run / "bundle") as folder:
        (folder / "bundle.json").write_text("new")
        assert contents(run).items() >= before.items()
    assert listing(run / "bundle") == ["bundle.json"]


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_stays_a_link_to_the_new_bundle(old, tmp_path, dangling):
    run, _ = old
    link = tmp_path / "link"
    link.symlink_to(run / "bundle")
    if dangling:
        shutil.rmtree(run / "bundle")
    for content in ("first", "second"):
        with replaced_folder(link) as folder:
            (folder / "bundle.json").write_text(content)
        assert link.is_symlink()
        assert (run / "bundle" / "bundle.json").read_text() == content
    assert listing(run) == ["bundle", "clips.jsonl"]
    assert listing(tmp_path) == ["link", "run"]


@pytest.mark.parametrize("kind", ["folder", "file", "empty"])
def test_a_foreign_out_is_refused_and_kept(tmp_path, checkpoint, data, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
    if kind == "folder":
        (out / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ExportError, match="out exists and is no bundle; choose another --out"):
        build_bundle(checkpoint, data, out)
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["out"]


# --- bad input


@pytest.fixture
def lookahead(data, tmp_path):
    path = tmp_path / "run" / "checkpoint" / "best.ckpt"
    write_checkpoint(path, data, UnitConfig(form="lookahead", shift_div=4), steps=1)
    return path


def run_main(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


def says(capsys, *parts):
    """The command said one line, with these parts in it."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "clips:" not in line and line.strip()]
    assert out == ""
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    assert sum(line.startswith("error: ") for line in lines) == 1
    for part in parts:
        assert part in lines[-1]


def test_a_lookahead_checkpoint(lookahead, data, capsys):
    assert run_main("--checkpoint", lookahead, "--data", data) == 1
    says(capsys, "'lookahead' sees the next frame and cannot stream", "init")
    assert listing(lookahead.parent.parent) == ["checkpoint"]


def test_no_checkpoint(data, tmp_path, capsys):
    assert run_main("--checkpoint", tmp_path / "none.ckpt", "--data", data) == 1
    says(capsys, "no checkpoint at", "none.ckpt")


def test_a_damaged_checkpoint(data, tmp_path, checkpoint, capsys):
    cut = tmp_path / "run" / "checkpoint" / "best.ckpt"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    assert run_main("--checkpoint", cut, "--data", data) == 1
    says(capsys, "best.ckpt cannot be read")


@pytest.mark.parametrize("loss", ["-0.1", "50", "nan", "1.01"])
def test_a_loss_that_is_no_share(checkpoint, data, tmp_path, capsys, loss):
    arguments = ("--checkpoint", checkpoint, "--data", data, "--out", tmp_path / "out")
    assert run_main(*arguments, "--allowed-loss", loss) == 1
    says(capsys, "allowed_loss must be in 0..1")
    assert listing(tmp_path) == []


def test_no_data(checkpoint, tmp_path, capsys):
    arguments = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--data")
    assert run_main(*arguments, tmp_path / "nowhere") == 1
    says(capsys, "nowhere is no folder; give a data folder")
    assert listing(tmp_path) == []


def test_one_clip_cannot_calibrate_and_compare(checkpoint, data, tmp_path):
    folder = tmp_path / "data"
    (folder / "calibration").mkdir(parents=True)
    shutil.copy(data / "labels.txt", folder)
    for path in sorted((data / "calibration").glob("00000*.mp4")):
        shutil.copy(path, folder / "calibration")
        row = f"{path.name},0,1,slide_left"
    (folder / "calibration" / "segments.csv").write_text(f"path,start_s,end_s,label\n{row}\n")
    with pytest.raises(DataError, match="at least 2 video clips .*, got 1"):
        build_bundle(checkpoint, folder, tmp_path / "out")


@pytest.mark.usefixtures("float_graphs_at_hand")
def test_a_broken_calibration_video(checkpoint, data, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    broken = sorted((folder / "calibration").glob("*.mp4"))[5]
    broken.write_bytes(broken.read_bytes()[:2000])
    out = tmp_path / "run" / "bundle"
    assert run_main("--checkpoint", checkpoint, "--data", folder, "--out", out) == 1
    says(capsys, "1 of 1", "calibration clips cannot be read, at most 5% may", broken.name)
    assert listing(tmp_path / "run") == []


def test_another_architecture_in_the_file_is_refused(checkpoint, data, tmp_path):
    import torch

    content = torch.load(checkpoint, weights_only=True)
    content["tdrl"]["model"]["unit"]["pem"] = False
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="another architecture"):
        build_bundle(tmp_path / "odd.ckpt", data, tmp_path / "out")
    assert listing(tmp_path) == ["odd.ckpt"]


def test_the_command_itself(tmp_path):
    """The real process: one line, status 1, no traceback; `--help` shows an example."""
    command = [sys.executable, "-m", "export.bundle"]
    done = subprocess.run(
        [*command, "--checkpoint", "none.ckpt", "--data", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no checkpoint at none.ckpt")
    assert len(done.stderr.splitlines()) == 1


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "python -m export.bundle --checkpoint" in capsys.readouterr().out


def test_the_command_ends_with_what_to_do_next(
    built, checkpoint, data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(export.bundle, "build_bundle", lambda *_args, **_options: built)
    out = tmp_path / "bundle"
    assert run_main("--checkpoint", checkpoint, "--data", data, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"bundle {out}; next: make engine, or make stream"
    assert lines[-2] == f"report {out / 'report.html'}"
    assert lines[-3].startswith("Ships, by a raised limit: INT8 ")
    assert any(line.startswith("note: 13 clips are too few") for line in lines)
    assert '"clip_top1_int8"' in "".join(lines)


# --- without any state


def test_a_model_without_states_makes_a_bundle_that_runs(data, tmp_path):
    path = tmp_path / "run" / "checkpoint" / "best.ckpt"
    write_checkpoint(path, data, UNITS["plain"], steps=1)
    bundle = build_bundle(path, data, tmp_path / "run" / "bundle", allowed_loss=1.0).bundle
    assert bundle.graph("step").states == bundle.graph("step_int8").states == ()
    with OrtStepSession(bundle, "int8", phases=2) as session:
        assert run_self_test(bundle, session, "int8").steps == 16


def test_calibration_clips_have_absolute_paths(built):
    clips = read_clip_list(built.bundle.folder.parent / "clips.jsonl")
    assert all(isinstance(clip, CalibrationClip) and Path(clip.path).is_file() for clip in clips)
