"""Long streams on real graphs: what is measured, and that graphs which drift are caught."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import export.drift
from export.drift import FEWEST_STEPS, drift_of_bundle, main
from export.int8.quantise import reference_session
from export.report.verdict import is_short, read_report
from export.stream.drift_measure import measure_drift
from export.stream.graph_run import GraphRun
from export.stream.long_stream import NUM_PARTS, stream_of
from export.stream.state_math import exact_state_math
from export.stream.state_parts import parts_from_json, state_parts
from runtime.bundle import Bundle, GraphKind, GraphSpec, StateSpec, load_bundle
from runtime.command import run_command
from runtime.errors import ExportError
from runtime.sampling import SamplingContract
from tests.export.small import (
    PICTURE,
    UNITS,
    int8_of,
    moving_frames,
    ort_session,
    run_steps,
    small_model,
    zero_states,
)
from train.live_evaluation import TorchSession

LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def pair_of(step_of, tmp_path_factory):
    """`pair_of(kind)`: a folder with both step graphs, and its bundle without anything else."""

    def made(kind):
        step = step_of("tiny", kind)
        folder = tmp_path_factory.mktemp("pair")
        shutil.copy(step.path, folder / "step.onnx")
        path, states = int8_of(step, folder)
        graphs: dict[GraphKind, GraphSpec] = {
            "step": GraphSpec("step.onnx", step.states),
            "step_int8": GraphSpec(path.name, states),
        }
        return Bundle(
            folder=folder,
            name="x",
            labels=LABELS,
            picture=PICTURE,
            sampling=SamplingContract(num_segments=8, window_s=2.0, consensus_len=4),
            graphs=graphs,
        )

    return made


@pytest.fixture(scope="module")
def pair(pair_of):
    return pair_of("pem-tsm")


@pytest.fixture
def clips():
    return [moving_frames(8, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("kind", ["step", "step_int8"])
def test_a_fast_run_gives_what_the_graph_says_as_written(pair, kind):
    fast = GraphRun(pair.graph_path(kind), pair.graph(kind), threads=1)
    got, expected = [], []
    spec = None if kind == "step" else pair.graph(kind)
    with reference_session(pair, spec) as written:
        for number, frame in enumerate(moving_frames(12)):
            starts = float(number == 0)
            got.append(fast.step(frame, starts)["logits"][0])
            reset = np.full((1, 1), starts, np.float32)
            expected.append(written.step(0, frame[np.newaxis], reset)[0].copy())
    span = np.ptp(expected)
    # no rounding of INT8 may move, and a sum's order moves the last digit only
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * span)


@pytest.fixture
def parts():
    return state_parts(small_model("tiny", UNITS["pem-tsm"]))


def changed(pair, folder, change, kind="step_int8"):
    """The pair with one graph rewritten."""
    shutil.copytree(pair.folder, folder, dirs_exist_ok=True)
    path = folder / pair.graph(kind).file
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)
    return replace(pair, folder=folder)


def leaking(pair, folder):
    """The INT8 graph with one state more, which adds up and leaks into the logits."""
    spec = StateSpec("state_in_05", "state_out_05", (1, 5), "float32")

    def change(graph):
        maker = next(node for node in graph.node if "logits" in node.output)
        maker.output[list(maker.output).index("logits")] = "logits_before"
        leak = np.linspace(0, 0.004, 5, dtype=np.float32).reshape(1, 5)
        graph.initializer.append(numpy_helper.from_array(leak, "leak"))
        graph.node.append(helper.make_node("Add", ["state_in_05", "leak"], ["state_out_05"]))
        graph.node.append(helper.make_node("Add", ["logits_before", "state_out_05"], ["logits"]))
        for name, values in ((spec.name_in, graph.input), (spec.name_out, graph.output)):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]))

    found = changed(pair, folder, change)
    int8 = found.graph("step_int8")
    graphs = {**found.graphs, "step_int8": replace(int8, states=(*int8.states, spec))}
    return replace(found, graphs=graphs)


def coarse(graph):
    """PEM's state through a Q/DQ pair: what quantisers do when they are let."""
    maker = next(node for node in graph.node if "state_out_00" in node.output)
    maker.output[list(maker.output).index("state_out_00")] = "state_before"
    graph.initializer.append(numpy_helper.from_array(np.array(0.05, np.float32), "coarse_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "coarse_zero"))
    scale = ["coarse_scale", "coarse_zero"]
    graph.node.append(helper.make_node("QuantizeLinear", ["state_before", *scale], ["state_q"]))
    graph.node.append(helper.make_node("DequantizeLinear", ["state_q", *scale], ["state_out_00"]))


def test_a_sound_graph_does_not_drift(pair, clips, parts):
    model = TorchSession(small_model("tiny", UNITS["pem-tsm"]))
    seen: list[int] = []
    found = measure_drift(pair, clips, parts, steps=300, model=model, advance=seen.append)
    json.dumps(found, allow_nan=False)
    assert found["steps"] == sum(seen) == NUM_PARTS * found["block_steps"] >= 300
    assert not found["int8"]["grows"]
    assert found["onnx_model"]["largest"] < 1e-5
    assert found["state_math"]["sqnr_db"] > 100
    assert 15 < found["logits_sqnr_db"] < 60
    assert set(found["kinds"]) == {"PEM", "TSM"}
    assert [part["kind"] for part in found["states"]] == 4 * ["PEM"] + 4 * ["TSM"]
    first, last = found["trace"]["step"][0], found["trace"]["step"][-1]
    assert found["block_steps"] < first < last == found["steps"]


def test_sqnr_of_states_is_that_of_the_graphs(pair, clips, parts):
    """Once more from the outside: the same stream unrolled by hand."""
    found = measure_drift(pair, clips[:1], parts, steps=NUM_PARTS * 8)
    frames = np.tile(clips[0], (NUM_PARTS, 1, 1, 1))
    float_logits, ours = run_steps(
        onnx.load(pair.graph_path("step")), pair.graph("step").states, frames
    )
    int8_logits, theirs = run_steps(
        onnx.load(pair.graph_path("step_int8")), pair.graph("step_int8").states, frames
    )
    expected, got = float_logits[8:], int8_logits[8:]
    noise = np.square(got - expected, dtype=np.float64).sum()
    by_hand = 10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise)
    assert found["logits_sqnr_db"] == pytest.approx(by_hand, abs=1e-3)
    for part in (p for p in found["states"] if p["kind"] == "PEM"):
        cut = slice(part["start"], part["stop"])
        a = np.stack([state["state_in_00"][:, cut] for state in ours[8:]]).astype(np.float64)
        b = np.stack([state["state_in_00"][:, cut] for state in theirs[8:]])
        by_hand = 10 * np.log10(np.square(a).sum() / np.square(b - a).sum())
        assert part["sqnr_db"] == pytest.approx(by_hand, abs=1e-3)


def test_shift_states_are_read_at_their_scale(pair, clips, parts):
    """INT8 numbers as they are would be nowhere near."""
    found = measure_drift(pair, clips, parts, steps=NUM_PARTS * 8)
    assert all(part["sqnr_db"] > 10 for part in found["states"] if part["kind"] == "TSM")


def test_what_adds_up_along_the_stream_is_caught(pair, clips, parts, tmp_path):
    found = measure_drift(leaking(pair, tmp_path), clips, parts, steps=300)
    assert found["int8"]["grows"]
    assert found["int8"]["growth"] > 1.5


def test_quantised_state_math_is_caught(pair, clips, parts, tmp_path):
    found = measure_drift(changed(pair, tmp_path, coarse), clips, parts, steps=100)
    assert found["state_math"]["sqnr_db"] < 40


def test_what_is_no_number_is_refused(pair, clips, parts, tmp_path):
    def broken(graph):
        for tensor in graph.initializer:
            if tensor.name.endswith("fc.bias"):
                value = numpy_helper.to_array(tensor).copy()
                value[0] = np.nan
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    with pytest.raises(ExportError, match="no number at step 0 of a long stream"):
        measure_drift(changed(pair, tmp_path, broken), clips, parts, steps=50)


def test_time_limits_the_steps_and_the_report_says_so(pair, clips, parts):
    model = TorchSession(small_model("tiny", UNITS["pem-tsm"]))
    found = measure_drift(pair, clips, parts, model=model, steps=100_000, most_seconds=1e-6)
    assert found["steps"] == NUM_PARTS * 8
    assert found["wanted_steps"] == 100_000
    assert found["onnx_model"] is None


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [("plain", set()), ("pem", {"PEM"}), ("tsm", {"TSM"}), ("tsm-pem", {"PEM", "TSM"})],
)
def test_every_kind_of_model(pair_of, clips, kind, kinds):
    found = measure_drift(
        pair_of(kind), clips, state_parts(small_model("tiny", UNITS[kind])), steps=100
    )
    assert set(found["kinds"]) == kinds
    assert (found["state_math"] is not None) == ("PEM" in kinds)


def test_parts_cover_every_state_once(step_of):
    for kind in UNITS:
        step, parts = step_of("tiny", kind), state_parts(small_model("tiny", UNITS[kind]))
        for number, state in enumerate(step.states):
            mine = [part for part in parts if part.state == number]
            covered = [i for part in mine for i in range(part.start, part.stop)]
            assert covered == list(range(state.shape[1]))
        assert parts_from_json(json.loads(json.dumps([p.to_json() for p in parts]))) == parts


def test_exact_state_math_is_the_graphs(pair, clips):
    """Fed by the float graph's own pooled vectors it gives the float graph's state."""
    step = onnx.load(pair.graph_path("step"))
    math = exact_state_math(step, pair.graph("step").states)
    assert math is not None
    assert len(math.pooled) == 4
    watched = onnx.ModelProto()
    watched.CopyFrom(step)
    for name in math.pooled:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session, carried = ort_session(watched), zero_states(pair.graph("step").states)
    names = [output.name for output in session.get_outputs()]
    for number, frame in enumerate(clips[0]):
        reset = float(number in (0, 5))
        feeds = {"frame": frame[None], "reset": np.full((1, 1), reset, np.float32), **carried}
        values = dict(zip(names, session.run(names, feeds), strict=True))
        carried = {state.name_in: values[state.name_out] for state in pair.graph("step").states}
        assert math.step(values, reset) == pytest.approx(values["state_out_00"], abs=1e-5)


def test_state_math_that_reads_more_than_pooled_vectors_is_left_out(pair):
    step = onnx.load(pair.graph_path("step"))
    reader = next(node for node in step.graph.node if "state_out_00" in node.output)
    step.graph.input.append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, [1, 16]))
    reader.input[0] = "odd"
    assert exact_state_math(step, pair.graph("step").states) is None


# --- on a finished bundle


@pytest.fixture
def bundle(built, tmp_path):
    """A copy of the bundle with its clip list beside it."""
    shutil.copytree(built.bundle.folder, tmp_path / "bundle")
    shutil.copy(built.bundle.folder.parent / "clips.jsonl", tmp_path)
    return tmp_path / "bundle"


def test_the_command_adds_a_long_stream_to_the_report(bundle, capsys):
    before = read_report(bundle)
    assert run_command(lambda: main([str(bundle), "--steps", "300"])) == 0
    assert "INT8's distance to float does not grow" in capsys.readouterr().out
    after = read_report(bundle)
    assert after["long_drift"]["steps"] >= 300
    assert {**after, "long_drift": None} == {**before, "long_drift": None}
    steps = after["long_drift"]["steps"]
    assert f"A stream of {steps:,} steps" in (bundle / "report.html").read_text()
    load_bundle(bundle)  # hashes are those of the new files


def test_a_stream_too_short_to_judge_is_refused(bundle, capsys):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert run_command(lambda: main([str(bundle), "--steps", str(FEWEST_STEPS - 1)])) == 1
    out, err = capsys.readouterr()
    assert "too few steps to judge a drift, want >= 276, got 275" in err
    assert "does not grow" not in out
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.parametrize("length", [1, 8, 26, 40])
def test_the_fewest_steps_are_enough_and_one_less_is_not(length):
    clips = [np.zeros((length, 1, 1, 3), np.uint8)] * 30

    def short(steps):
        stream = stream_of(clips, steps)
        return is_short({"steps": stream.steps, "block_steps": stream.block_steps})

    assert not short(FEWEST_STEPS)
    assert short(FEWEST_STEPS - 1) == (math.ceil(25 / length) * length * 10 < 256)


def test_a_drift_fails_the_command_and_is_in_the_report(bundle, capsys, monkeypatch):
    real = measure_drift

    def drifting(*args, **options):
        found = real(*args, **options)
        return {**found, "int8": {**found["int8"], "growth": 3.2, "grows": True}}

    monkeypatch.setattr(export.drift, "measure_drift", drifting)
    assert run_command(lambda: main([str(bundle), "--steps", "300"])) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: INT8's distance to float grows along a stream, 3.2 times in ")
    verdict = read_report(load_bundle(bundle).folder)["verdict"]
    assert not verdict["ships"]
    assert verdict["line"].startswith("Do not ship: INT8's distance to float grows")


def test_without_the_clips_one_line_says_so(bundle, capsys):
    (bundle.parent / "clips.jsonl").unlink()
    assert run_command(lambda: main([str(bundle)])) == 1
    assert "clips.jsonl cannot be read" in capsys.readouterr().err


def test_a_failure_leaves_the_bundle_as_it_was(bundle, monkeypatch):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def failing(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr("export.report_page.write_report", failing)
    with pytest.raises(OSError, match="disk full"):
        drift_of_bundle(bundle, bundle.parent / "clips.jsonl", 300)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "clips.jsonl"]


def test_steps_must_be_some(bundle, capsys):
    assert run_command(lambda: main([str(bundle), "--steps", "0"])) == 1
    assert "too few steps to judge a drift, want >= 276, got 0" in capsys.readouterr().err
