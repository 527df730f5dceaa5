"""The bench: that its numbers are of what they name, that two runs can be compared."""

from __future__ import annotations

import json
import pkgutil
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning

from export.bench import (
    decision,
    floor,
    latency,
    needed,
    operations,
    parts,
    processes,
    stages,
    streams,
    training,
    training_loop,
)
from export.bench.__main__ import main
from export.bench.camera import HEIGHT_PX, WIDTH_PX, camera_file, camera_pictures
from export.bench.compare import compare, read_run
from export.bench.effort import SMOKE, TINY
from export.bench.models import UNITS, Models, Part, StepCall, choice_of, one_thread_session
from export.bench.resident import main as resident
from export.bench.run import TABLES, Report, write
from export.bench.values import Table, Value, values_from_json
from export.roofline.kernels import Kernel
from export.step_ratios import cpu_times
from runtime.bundle import load_bundle, load_golden
from runtime.command import run_command
from runtime.errors import ExportError
from runtime.selftest import run_self_test
from runtime.sources import bgr_frame
from tests.openvino_part import needs_openvino

QUICK = replace(SMOKE, rounds=2, ticks=3, paced_s=0.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("bench"))


def run_of(**medians):
    table = Table("t", "T", "text", ("a",))
    for key, (low, median, high) in medians.items():
        table.values[f"t/{key}"] = Value(median, low, high, "x", 9)
    return Report("Measured", (0.1, 0.2), {"t": 1.0}, (table,))


def test_a_value_is_a_median_with_its_spread():
    value = Value.of(np.arange(1.0, 12.0), "ms")
    assert (value.low, value.median, value.high, value.rounds) == (2.0, 6.0, 10.0, 11)
    assert str(value) == "6.00 (2.00-10.00)"
    assert str(Value.of([25.21], "ms")) == "25.2"


def test_two_runs_agree_where_their_spreads_overlap():
    old = run_of(same=(1, 2, 3), near=(1, 2, 3), far=(1, 2, 3), gone=(1, 2, 3))
    new = run_of(same=(1, 2, 3), near=(3.05, 4, 5), far=(3.1, 4, 5), new=(1, 2, 3))
    found = compare(old.values, new.values)
    assert set(found.agree) == {"t/same", "t/near"}
    assert set(found.differ) == {"t/far"}
    assert (
        found.text() == "2 of 3 numbers agree\n  t/far: was 2.00 (1.00-3.00), is 4.00 (3.10-5.00)"
    )


def test_a_machine_drifts_between_runs_and_ratios_hardly():
    def between(unit, low, high):
        old, new = Value(low, low, low, unit, 9), Value(high, high, high, unit, 9)
        return new.agrees(old) and old.agrees(new)

    assert between("ms", 100, 108)
    assert not between("ms", 100, 109)
    assert between("x", 1.0, 1.02)
    assert not between("x", 1.0, 1.03)
    # what is shorter than clocks tell
    assert between("ms", 0.004, 0.02)
    assert not between("MB", 0.004, 0.02)


def test_short_steps_take_several_turns_in_a_round():
    calls = []

    def step(name, wanted_ns):
        calls.append(name)
        started_ns = time.process_time_ns()
        while time.process_time_ns() - started_ns < wanted_ns:
            pass

    steps = {"a": partial(step, "a", 1_000_000), "b": partial(step, "b", 3_000_000)}
    ms = cpu_times(steps, 3, "", warm_up=1, least_ms=10.0)
    turns = len(calls) // 2
    assert 1 + 3 * 2 <= turns <= 1 + 3 * 3
    assert calls == ["a", "b"] * turns
    assert ms["a"].shape == (3,)
    assert ((ms["a"] > 0.9) & (ms["a"] < 2.5)).all()
    assert ((ms["b"] > 2.9) & (ms["b"] < 4.5)).all()


def test_a_number_of_one_round_has_no_spread_to_compare():
    old, new = (run_of(a=(1, 2, 3)).values for _ in range(2))
    once = Value(9, 9, 9, "MB", 1)
    assert compare(old | {"t/b": once}, new | {"t/b": Value(5, 5, 5, "MB", 1)}).differ == {}


def test_runs_of_other_things_are_not_compared():
    with pytest.raises(ExportError, match="no number in common"):
        compare(run_of(a=(1, 2, 3)).values, run_of(b=(1, 2, 3)).values)


def test_a_run_is_read_back(tmp_path):
    report = run_of(a=(1, 2, 3))
    path = write(report, tmp_path)
    assert path.name == "bench.md"
    assert read_run(tmp_path / "bench.json") == report.values
    assert "Load average 0.1 before and 0.2 after" in path.read_text()


@pytest.mark.parametrize("text", ["", "{}", '{"tables": [{"values": {"a": {"x": 1}}}]}', "[]"])
def test_a_file_that_is_no_run(tmp_path, text):
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(ExportError, match="is no run of `make bench`"):
        read_run(tmp_path / "no.json")


def test_the_own_cost_of_every_bundle_is_judged():
    values = {
        "stages/tiny at 48/own": Value(2.0, 1.9, 2.1, "ms", 9),
        "stages/resnet18 at 224/own": Value(3.1, 3.0, 3.2, "ms", 9),
    }
    lines = needed.as_markdown(values).splitlines()[2:]
    assert lines == [
        "| tiny at 48: runtime's own cost of a tick at 1280 × 720, ms "
        "| ≤ 3 | 2.00 (1.90-2.10) | reached |",
        "| resnet18 at 224: runtime's own cost of a tick at 1280 × 720, ms "
        "| ≤ 3 | 3.10 (3.00-3.20) | **missed** |",
    ]


def test_limits_are_reached_or_missed():
    values = {
        "decision/resnet50 at 224/eager/chosen": Value(19.9, 19, 21, "x", 9),
        "parts/resnet50 at 224/openvino int8/both": Value(1.25, 1.2, 1.3, "x", 9),
        "latency/tiny at 48/limit": Value(14.0, 14, 14, "ms", 1),
        "latency/tiny at 48/p99": Value(14.1, 14.1, 14.1, "ms", 1),
    }
    text = needed.as_markdown(values)
    assert "| ≥ 20 | 19.9 (19.0-21.0) | **missed** |" in text
    assert "| ≤ 1.25 | 1.25 (1.20-1.30) | reached |" in text
    assert "| ≤ 14 | 14.1 | **missed** |" in text
    assert len(text.splitlines()) == 2 + 3


@pytest.fixture
def clock(monkeypatch):
    """CPU time that only passes when a test says so."""
    now = [0]
    monkeypatch.setattr("export.step_ratios.time.process_time_ns", lambda: now[0])
    return lambda ms: now.__setitem__(0, now[0] + round(ms * 1e6))


def test_a_decision_is_divided_by_the_right_one(models, clock, monkeypatch):
    monkeypatch.setattr(decision, "eager_call", lambda case, segments: lambda: clock(80))
    monkeypatch.setattr(decision, "clip_call", lambda *_: lambda: clock(24))
    sessions = iter((6, 2))
    takes = {}

    class Slow(StepCall):
        def __init__(self, session, size_px):
            super().__init__(session, size_px)
            takes[id(self)] = next(sessions)

        def __call__(self):
            clock(takes[id(self)])

    monkeypatch.setattr(decision, "StepCall", Slow)
    values = decision.measure(models, QUICK).values
    medians = {key.removeprefix("decision/tiny at 48/"): v.median for key, v in values.items()}
    assert medians["clip/step"] == 4
    assert medians["eager/step"] == pytest.approx(80 / 6, abs=1e-3)
    assert medians["eager/chosen"] == 40


def test_streams_are_divided_by_as_many_steps_of_one(models, clock, monkeypatch):
    """8 streams cost at most 8 steps: the table holds the step divided by N × one."""

    class Slow(StepCall):
        def __init__(self, session, size_px):
            super().__init__(session, size_px)
            self.ms = {1: 5, 8: 30}[session.num_streams]

        def __call__(self):
            clock(self.ms)

    monkeypatch.setattr(streams, "StepCall", Slow)
    values = streams.measure_streams(models, QUICK).values
    assert values["streams/tiny at 48/1"].median == 5
    assert values["streams/tiny at 48/8"].median == 30 / 40
    limits = {each.key: each.limit for each in needed.FIXED}
    assert limits["streams/tiny at 48/8"] == 4 / 8
    assert limits["streams/resnet50 at 224/8"] == 8 / 8


def test_parts_are_divided_by_the_plain_backbone(models, clock, monkeypatch):
    ms = dict(zip(UNITS, (10, 11, 12, 13), strict=True))
    units: list[Part] = []

    class Slow(StepCall):
        def __init__(self, session, size_px):
            units.append(list(UNITS)[len(units) % 4])
            self.unit = units[-1]

        def __call__(self):
            clock(ms[self.unit])

    monkeypatch.setattr(parts, "StepCall", Slow)
    monkeypatch.setattr(parts, "sessions", lambda: [choice_of("ort", "float32")])
    values = parts.measure(models, QUICK).values
    start = "parts/tiny at 48/ort float32/"
    found = {key.removeprefix(start): value.median for key, value in values.items()}
    assert found == {"plain": 10, "PEM": 1.1, "TM": 1.2, "both": 1.3}


def test_each_part_has_the_states_it_needs(models):
    states = {part: models.bundle(TINY, part).graph("step").states for part in UNITS}
    shapes = {part: sorted(len(s.shape) for s in found) for part, found in states.items()}
    assert shapes == {"none": [], "PEM": [2], "TM": [4] * 4, "both": [2, *[4] * 4]}


def test_a_call_goes_through_all_phases(models, monkeypatch):
    with one_thread_session(models.bundle(TINY), choice_of("ort", "float32"), phases=3) as session:
        seen = []
        step, call = session.step, StepCall(session, 48)

        def counted(phase, *rest):
            seen.append(phase)
            return step(phase, *rest)

        monkeypatch.setattr(session, "step", counted)
        for _ in range(6):
            call()
    assert seen == [1, 2, 0, 1, 2, 0]


def test_phases_share_a_core(models):
    table = streams.measure_phases(models, QUICK)
    rates = {line[2]: line[4] for line in table.rows}
    assert rates == {"1": "4", "2": "8"}  # T 8 in two seconds
    assert "phases/tiny at 48/T8/recomputed" in table.values


def test_a_made_bundle_passes_the_start_up_check(models):
    models.whole_bundle(TINY)
    bundle = load_bundle(models.bundle(TINY).folder)
    with one_thread_session(bundle, choice_of("ort", "float32")) as session:
        run_self_test(bundle, session, "float32")
    assert len(load_golden(bundle).camera_frames) == 3


def test_pictures_are_a_camera_s():
    first, second = camera_pictures(2)
    assert first.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert first.dtype == np.uint8
    assert (first != second).mean() > 0.5


def test_stages_add_up(models, tmp_path):
    table = stages.measure_stages(models, QUICK, tmp_path)
    medians = {k.removeprefix("stages/tiny at 48/"): v for k, v in table.values.items()}
    assert set(medians) == {*stages.COLUMNS, "own", *stages.WATCHED, "line"}
    assert "decode" in stages.OWN, "a picture is decoded after its grab was stamped"
    own = sum(medians[name].low for name in stages.OWN)
    assert own <= medians["own"].high
    lines = (tmp_path / "tiny-48-both.jsonl").read_text().splitlines()
    longest = max(len(line) + 1 for line in lines)
    assert 0.8 * longest < medians["line"].median <= longest
    ticks = [json.loads(line) for line in lines]
    decisions = [line for line in ticks if line["type"] == "decision"]
    assert len(decisions) == QUICK.ticks + stages.WARM_UP


def test_a_slow_stage_is_seen(models, tmp_path, monkeypatch):
    """Resizing that takes 20 ms more shows there, once, and in the runtime's own cost."""

    def slow(*arguments):
        until = time.process_time_ns() + 20_000_000
        while time.process_time_ns() < until:
            pass
        return fit(*arguments)

    fit = bgr_frame.fit_frame
    monkeypatch.setattr(stages, "fit_frame", slow)
    monkeypatch.setattr("runtime.stepper.fit_frame", slow)
    values = stages.measure_stages(models, QUICK, tmp_path).values
    assert 20 < values["stages/tiny at 48/resize"].median < 30
    assert 20 < values["stages/tiny at 48/own"].median < 40
    assert values["stages/tiny at 48/decide"].median < 10


def test_latency_is_of_sources_at_their_own_pace(models, tmp_path):
    effort = replace(QUICK, paced_s=1.2)
    table = latency.measure(models, effort, tmp_path)
    names = ("tiny at 48", "tiny at 48, 8 streams")
    counts = {line[0]: int(line[1]) for line in table.rows}
    assert counts[names[0]] == 5  # ticks at 0, 0.25, ... 1.0 s
    # one may begin with the tick that is just gone; one that the machine was too busy for is missed
    assert 8 * 3 <= counts[names[1]] <= 8 * 6
    for name in names:
        step, late, limit = (
            table.values[f"latency/{name}/{what}"].median for what in ("step", "latency", "limit")
        )
        assert late > step
        assert limit == pytest.approx(2 * step + (50 if name == names[1] else 10), abs=1e-3)


def test_memory_is_of_a_process_of_its_own(models, capsys):
    bundle = models.bundle(TINY)
    resident([str(bundle.folder), "2", "ort", "float32"])
    imported, opened, after = (float(part) for part in capsys.readouterr().out.split())
    assert 20 < imported <= opened <= after * 1.05
    assert processes.state_mb(bundle, "int8") < processes.state_mb(bundle, "float32")
    vector, *maps = bundle.graph("step").states
    numbers = sum(np.prod(state.shape) for state in (vector, *maps))
    assert processes.state_mb(bundle, "float32") == pytest.approx(2 * 4 * numbers / 1e6)


def test_a_process_that_fails_is_named(models, monkeypatch):
    monkeypatch.setattr(processes, "fast_choice", lambda: choice_of("ort", "float16"))
    with pytest.raises(ExportError, match=r"python -m export.bench.resident failed: error: .*step"):
        processes.measure_memory(models, replace(QUICK, streams=(1, 2)))


@pytest.mark.slow
def test_start_and_training(models, tmp_path):
    start = processes.measure_start(models, QUICK, tmp_path)
    assert start.values["start/import"].median < start.values["start/tiny at 48/wall"].median
    speeds = training.measure(QUICK, tmp_path)
    assert speeds.values["training/both"].median < speeds.values["training/loader"].median


@needs_openvino
def test_operations_are_counted(models):
    lines = {row[1]: row for row in TABLES["operations"](models, QUICK, Path()).rows}
    assert list(lines) == ["openvino int8", "ort float32"]
    for line in lines.values():
        plain, tdrl = (int(cell.partition("(")[2].rstrip(")")) for cell in line[2:4])
        assert 10 < plain < tdrl


@needs_openvino
def test_openvino_names_its_operations(models):
    plain, tdrl = (
        operations.openvino_profile(models.bundle(TINY, part).graph_path("step_int8"), 2)
        for part in ("none", "both")
    )
    assert "Convolution" in plain.ms
    assert {"FullyConnected", "VariadicSplit"} <= tdrl.ms.keys()  # the gates' products, the shift


def test_the_largest_differences_are_named(models):
    """Signed shares of the whole difference, whichever of the two a kind of operation is in."""
    times = iter([{"Conv": 2.0, "Pad": 0.3}, {"Conv": 2.5, "MatMul": 2.8}])
    engine = operations.Engine("e", "step", lambda *_: operations.Profile(next(times), 9))
    table = Table("operations", "T", "text", ("a",))
    operations._add(table, models, TINY, engine, 1)
    assert table.rows == [
        ("tiny at 48", "e", "2.30 (9)", "5.30 (9)", "MatMul 93%, Conv 17%, Pad -10%")
    ]


def test_without_openvino_onnx_runtime_is_profiled(models, monkeypatch):
    monkeypatch.setattr(operations, "has_openvino", lambda: False)
    missing, ort_line = TABLES["operations"](models, QUICK, Path()).rows
    assert missing[0] == "OpenVINO is not installed"
    assert ort_line[:2] == ("tiny at 48", "ort float32")


def test_onnx_runtime_names_its_kernels(models):
    """As many convolutions in both, and the temporal parts' kernels in one of them only."""
    plain, tdrl = (
        operations.ort_profile(models.bundle(TINY, part).graph_path("step"), 2)
        for part in ("none", "both")
    )
    convolutions = {"Conv", "FusedConv"}
    assert convolutions & plain.ms.keys()
    assert convolutions & tdrl.ms.keys()
    assert {"Concat", "Split"} <= tdrl.ms.keys() - plain.ms.keys()
    assert all(ms >= 0 for ms in tdrl.ms.values())


def test_the_first_runs_of_an_onnx_runtime_profile_do_not_count():
    def event(cat, name, ts, dur, **args):
        return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": args}

    def run(start, conv_us):
        # a run is written after its kernels
        return [
            event("Node", "a_kernel_time", start + 1, conv_us, op_name="Conv"),
            event("Node", "a_fence_before", start + 1, 500, op_name="Conv"),
            event("Node", "b_kernel_time", start + 2, 10, op_name="Add"),
            event("Session", "model_run", start, conv_us + 10),
        ]

    loaded = event("Session", "session_initialization", 0, 9999)
    runs = [*run(10_000, 9000), *run(20_000, 200), *run(30_000, 400)]
    profile = operations.ort_kernels([loaded, *runs], 1)
    assert profile.ms == {"Conv": pytest.approx(0.3), "Add": pytest.approx(0.01)}
    assert profile.calls == 2
    assert operations.ort_kernels([loaded, *runs], 3).calls == 0


def test_an_onnx_runtime_that_profiles_nothing(models, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: [])
    with pytest.raises(ExportError, match=r"profiled no kernel of tiny-48\.float32\.onnx"):
        operations.ort_profile(models.bundle(TINY, "both").graph_path("step"), 1)


def test_time_belongs_to_the_innermost_part(monkeypatch):
    """Two steps of an epoch as Lightning tells them, and what comes between two epochs."""
    now_ms = [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now_ms[0] * 1_000_000)
    clock = training_loop.StepClock()

    def spend(ms, *actions):
        for action in actions:
            clock.start(action)
        now_ms[0] += ms
        for action in reversed(actions):
            clock.stop(action)

    def step(backward_ms):
        spend(1, "[_TrainingEpochLoop].train_dataloader_next")
        spend(2, "[Strategy]SingleDeviceStrategy.batch_to_device", "[LightningModule]M.transfer")
        clock.start("run_training_batch")
        clock.start("[LightningModule]M.optimizer_step")
        clock.start("[Strategy]SingleDeviceStrategy.training_step")
        spend(4, "pre-roll")
        spend(8, "forward")
        now_ms[0] += 16
        clock.stop("[Strategy]SingleDeviceStrategy.training_step")
        spend(backward_ms, "[Strategy]SingleDeviceStrategy.backward")
        now_ms[0] += 64
        clock.stop("[LightningModule]M.optimizer_step")
        clock.stop("run_training_batch")
        now_ms[0] += 128

    now_ms[0] = 1000
    for _ in range(2):
        clock.start("run_training_epoch")
        step(32)
        clock.move("pre-roll", "everything else")
        clock.stop("run_training_epoch")
        now_ms[0] += 5000
    ms = (1, 2, 0, 8, 16, 32, 64, 128 + 4)
    assert clock.steps == [dict(zip(training_loop.PARTS, ms, strict=True))] * 2
    assert clock.seen >= set(training_loop.ENDINGS.values())


SLOW_MS = 60


def slowly(function):
    def slow(*arguments, **more):
        time.sleep(SLOW_MS / 1e3)
        return function(*arguments, **more)

    return slow


def test_the_training_loop_is_split_where_its_time_goes(tmp_path, monkeypatch):
    """What is slowed shows in its own part of every step."""
    slowed = {
        "loader": "train.data.loader._collate",
        "to the device": "train.module.TdrlModule.transfer_batch_to_device",
        "loss": "train.module.temporal_diversity_loss",
        "optimiser": "train.module.TdrlModule.optimizer_zero_grad",
        "everything else": "train.module.TdrlModule.on_train_batch_end",
    }
    for target in slowed.values():
        monkeypatch.setattr(target, slowly(pkgutil.resolve_name(target)))
    table = training_loop.measure(replace(QUICK, few_rounds=1), tmp_path)
    values = {key.removeprefix("training_loop/"): v for key, v in table.values.items()}
    assert values["step"].rounds == 2
    for part in slowed:
        assert values[part].low >= SLOW_MS
    assert values["step"].median > sum(values[part].low for part in slowed)
    line, shares = table.rows
    assert len(line) == len(shares) == len(table.header)
    assert sum(float(share.rstrip("%")) for share in shares[1:-1]) == pytest.approx(100, abs=0.5)


def test_a_lightning_with_other_names(tmp_path, monkeypatch):
    def fit(module, loader):
        for name in ("x.train_dataloader_next", "BestStrategy.backward", "forward"):
            with module._clock.profile(name):
                pass

    monkeypatch.setattr(pytorch_lightning, "Trainer", lambda **_: SimpleNamespace(fit=fit))
    unseen = "nothing named to the device, pre-roll, loss, optimiser was seen"
    with pytest.raises(ExportError, match=unseen):
        training_loop.step_times(1, training.made_data(QUICK, tmp_path), tmp_path)


def test_the_floor_is_the_longer_of_operations_and_bytes():
    busy = Kernel(name="conv", kind="convolution", macs=floor.PEAK_MACS, weights=10, maps=10)
    # as many bytes as two copies in memory take, read and write, and two in cache
    weights, maps = 4 * floor.MEMORY_BYTES, 4 * floor.COPIES * floor.CACHED_BYTES
    wide = Kernel(name="add", kind="pointwise", macs=0, weights=weights, maps=maps)
    ms = {
        name: np.array([value]) for name, value in (("int8", 8.0), ("cache", 1.0), ("memory", 5.0))
    }
    operations, moved, least = floor.floor_ms([busy, wide], "int8", ms)
    assert operations == pytest.approx(8)
    assert moved == pytest.approx(2 * 5 + 2 * 1, rel=1e-4)
    assert least == pytest.approx(8 + 12, rel=1e-4)
    ms["float32"] = ms["int8"]
    assert floor.floor_ms([wide], "float32", ms)[1] == pytest.approx(4 * 12)


@needs_openvino
def test_steps_are_held_against_the_floor(models):
    table = TABLES["floor"](models, QUICK, Path())
    assert [row[1:3] for row in table.rows] == [
        (model, precision) for model in ("plain", "TDRL") for precision in ("float32", "int8")
    ]
    megabytes = [float(row[4]) for row in table.rows]
    assert megabytes[0] > megabytes[1]
    assert megabytes[2] > megabytes[0]  # gate, shift and states are read and written
    assert table.values["floor/tiny at 48/TDRL int8"].median > 1


def test_without_openvino_there_is_no_floor(models, monkeypatch):
    monkeypatch.setattr(floor, "has_openvino", lambda: False)
    assert TABLES["floor"](models, QUICK, Path()).rows[0][0] == "OpenVINO is not installed"


def test_the_first_run_of_a_profile_does_not_count(monkeypatch):
    """Counters hold means over all runs: 1000 ms for the first and 2 ms for each other."""

    class Request:
        runs = 0

        def infer(self):
            self.runs += 1

        def get_profiling_info(self):
            mean_ms = (1000 + 2 * (self.runs - 1)) / self.runs
            return [
                SimpleNamespace(
                    node_name="a",
                    node_type="Add",
                    status=SimpleNamespace(name="EXECUTED"),
                    real_time=timedelta(milliseconds=mean_ms),
                )
            ]

    monkeypatch.setattr(operations, "_request", lambda path: Request())
    profile = operations.openvino_profile(Path("step.onnx"), 50)
    assert profile.ms["Add"] == pytest.approx(2, abs=0.01)
    assert profile.calls == 1


def test_the_command_prints_and_compares(tmp_path, capsys):
    arguments = ["--effort", "smoke", "--only", "streams"]
    assert run_command(lambda: main([*arguments, "--out", str(tmp_path)])) == 0
    text = (tmp_path / "bench-smoke.md").read_text()
    assert "| tiny at 48 |" in text
    stored = tmp_path / "bench-smoke.json"
    data = json.loads(stored.read_text())
    for key, value in values_from_json(data).items():
        wide = {**value.__dict__, "low": 0.0, "high": 1e9}
        data["tables"][0]["values"][key] = wide
    stored.write_text(json.dumps(data))
    assert run_command(lambda: main([*arguments, "--compare", str(stored)])) == 0
    assert "2 of 2 numbers agree" in capsys.readouterr().out
    for value in data["tables"][0]["values"].values():
        value["low"] = value["high"] = 1e6
    stored.write_text(json.dumps(data))
    assert run_command(lambda: main([*arguments, "--compare", str(stored)])) == 1
    assert "1 ratios do not agree" in capsys.readouterr().err


def test_a_wrong_file_is_refused_before_anything_runs(tmp_path, capsys):
    assert run_command(lambda: main(["--compare", str(tmp_path / "none.json")])) == 1
    assert "pass the JSON that an earlier run wrote" in capsys.readouterr().err


def test_plots_are_drawn_of_what_there_is(models, tmp_path):
    table = streams.measure_streams(models, QUICK)
    report = Report("Measured", (0, 0), {}, (table,))
    path = write(report, tmp_path)
    assert "![bench-streams](bench-streams.png)" in path.read_text()
    assert (tmp_path / "bench-streams.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "bench-decision.png").exists()
    full = write(report, tmp_path / "full", "bench-full")
    assert full.name == "bench-full.md"
    assert "![bench-full-streams](bench-full-streams.png)" in full.read_text()
    assert sorted(each.suffix for each in full.parent.iterdir()) == [".json", ".md", ".png"]


def test_larger_pictures_cost_more_to_decode(models, tmp_path):
    values = TABLES["decode"](models, QUICK, tmp_path).values
    small, large = (values[f"decode/{size}"] for size in ("640x360", "1920x1080"))
    assert 2 * small.median < large.median
    assert small.rounds == QUICK.seconds


def test_a_camera_file_is_made_once(tmp_path):
    path = camera_file(tmp_path, 0.2)
    before = path.stat().st_mtime_ns
    assert camera_file(tmp_path, 0.2) == path
    assert path.stat().st_mtime_ns == before
