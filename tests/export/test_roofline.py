"""The prediction for devices: what is counted, what is fitted, and what a device is shown."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from export.graph_view import load_graph
from export.predict import PRECISIONS, kernels_of, main, predict, published_kernels
from export.proof.expected import expected_of
from export.proof.latency import BACK_TO_BACK, PACED, Timing
from export.proof.report import Proof, Report
from export.roofline.kernels import Kernel, step_kernels
from export.roofline.model import Constants, estimate, fit
from export.roofline.published import (
    AGX_ORIN,
    DEVICES,
    FITTED_ROWS,
    ORIN_NANO,
    mobilenet_v2_kernels,
)
from export.roofline.table import read_prediction, steps_as_markdown
from runtime.command import run_command
from tests.mini_bundle import write_mini_bundle
from train.model.cost import cost_of
from train.model.tdrl import ModelConfig
from train.model.unit import UnitConfig

UNITS = {"tdrl": UnitConfig(), "plain": UnitConfig(temporal="none", pem=False)}
TINY_CONVS, TINY_BLOCKS = 12, 4


@pytest.fixture(scope="module", params=["tiny", "efficientnet_lite0"])
def backbone(request):
    return request.param


@pytest.fixture(scope="module", params=["tdrl", "plain"])
def counted(request, backbone):
    """Kernels of a step at 64, and what PyTorch counts of the same model."""
    config = ModelConfig(backbone=backbone, num_classes=13, unit=UNITS[request.param])
    cost = cost_of(config, num_segments=1, height_px=64, width_px=64)
    return kernels_of(backbone, 64, request.param), cost


def test_operations_are_those_that_pytorch_counts(counted):
    kernels, cost = counted
    assert sum(kernel.macs for kernel in kernels) == cost.step_macs


def test_each_state_is_read_and_written_once(counted):
    kernels, cost = counted
    maps = sum(kernel.states for kernel in kernels)
    assert maps % 2 == 0
    vectors = cost.state_size - maps // 2
    # all vectors are one tensor, which every block's kernels read a part of
    assert (maps > 0) == (vectors > 0) == (cost.state_size > 0)


def test_the_picture_is_read_once_and_its_bytes_are_bytes(counted):
    kernels, _ = counted
    assert sum(kernel.frame_bytes for kernel in kernels) == 64 * 64 * 3
    assert kernels[0].maps == 3 * 64 * 64  # written, normalised
    assert kernels[0].states == 0


def test_temporal_parts_are_five_kernels_a_block():
    """Mean, three products, and the gate with the shift."""
    tdrl, plain = (kernels_of("tiny", 48, name) for name in ("tdrl", "plain"))
    assert len(tdrl) - len(plain) == 5 * TINY_BLOCKS
    assert len([k for k in plain if k.kind == "convolution"]) == TINY_CONVS
    gates = [k for k in tdrl[1:] if k.kind == "pointwise"]
    assert len(gates) == TINY_BLOCKS
    # all of the map is read once and written once; an eighth comes and goes as the state
    gate = gates[0]
    assert gate.maps == 2 * 16 * 24 * 24
    assert gate.states == 2 * 2 * 24 * 24


def test_a_residual_convolution_reads_its_shortcut(step_of):
    view = load_graph(step_of("tiny", "plain").path)
    by_name = {kernel.name: kernel for kernel in step_kernels(view)}
    second = next(k for name, k in by_name.items() if name.endswith("layer1.0/conv2/Conv"))
    out = view.tensors[next(n for n in view.nodes if n.name == second.name).output[0]].num_elements
    assert second.maps == 3 * out


def test_bytes_by_precision_and_rows():
    kernel = Kernel(
        name="k", kind="convolution", weights=100, maps=10, states=4, vectors=2, frame_bytes=3
    )
    assert kernel.bytes_moved("int8") == 100 + 10 + 4 + 8 + 3
    assert kernel.bytes_moved("float16") == 200 + 20 + 16 + 8 + 3
    assert kernel.bytes_moved("int8", rows=3) == 100 + 3 * 25


def test_a_kernel_is_limited_by_one_of_the_two():
    constants = Constants(1.0, 1.0, 1.0, launch_clocks=ORIN_NANO.clock_hz / 1e6)  # 1 µs
    wide = Kernel(name="w", kind="convolution", macs=round(2048 * 8 * ORIN_NANO.clock_hz / 1e3))
    long = Kernel(name="l", kind="pointwise", maps=round(ORIN_NANO.bytes_per_s / 1e3))
    found = estimate([wide, long, long], ORIN_NANO, "int8", constants)
    assert found.launch_ms == pytest.approx(0.003)
    assert found.compute_ms == pytest.approx(1.0)
    assert found.memory_ms == pytest.approx(2.0)
    assert found.ms == pytest.approx(3.003)


def test_the_fit_finds_the_constants_behind_made_rows():
    hidden = Constants(0.4, 0.7, 0.6, 9000.0)
    kernels = {"mobilenet_v2": mobilenet_v2_kernels(), "tiny": kernels_of("tiny", 48, "plain")}
    rows = [
        replace(
            row,
            network=name,
            ms=estimate(kernels[name], row.device, row.precision, hidden, rows=row.rows).ms,
        )
        for name in kernels
        for row in FITTED_ROWS[:4]
    ]
    found = fit(rows, kernels)
    assert found.launch_clocks == pytest.approx(hidden.launch_clocks, rel=0.02)
    assert found.memory_share == pytest.approx(hidden.memory_share, rel=0.02)


def test_mobilenet_v2_is_the_paper_s():
    kernels = mobilenet_v2_kernels()
    assert sum(kernel.macs for kernel in kernels) == pytest.approx(300e6, rel=0.01)
    conv_weights = sum(kernel.weights for kernel in kernels)
    assert conv_weights == pytest.approx(2.19e6, rel=0.01)
    assert len([k for k in kernels if k.kind == "depthwise"]) == 17


def test_the_stored_prediction_is_what_the_code_predicts():
    stored = read_prediction()
    again = predict([("tiny", 48)], Constants(**stored.constants), spread=stored.spread)
    assert again.steps == tuple(step for step in stored.steps if step.backbone == "tiny")
    assert {step.device for step in stored.steps} == {device.name for device in DEVICES}


@pytest.mark.slow
def test_the_stored_constants_are_fitted_to_what_is_published():
    assert asdict(fit(FITTED_ROWS, published_kernels())) == read_prediction().constants


def test_more_machine_is_faster_and_more_numbers_are_slower():
    kernels = kernels_of("tiny", 48, "tdrl")
    constants = Constants(**read_prediction().constants)
    times = {
        (device.name, precision): estimate(kernels, device, precision, constants).ms
        for device in (ORIN_NANO, AGX_ORIN)
        for precision in PRECISIONS
    }
    assert times["AGX Orin", "int8"] < times["Orin Nano", "int8"] < times["Orin Nano", "float16"]


BOARD = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
TIMINGS = [
    Timing(PACED, "step", 10, 9.0, 9.0, 9.0, 9.0),
    Timing(BACK_TO_BACK, "step", 10, 2.0, 3.0, 3.0, 3.0),
]


@pytest.fixture
def predicted_bundle(tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle")
    rule = replace(bundle.picture, height_px=112, width_px=112)
    model = {"backbone": "resnet18", "temporal": "tsm", "pem": True}
    return replace(bundle, picture=rule, model=model)


def test_a_board_is_shown_what_was_expected_of_it(predicted_bundle):
    found = expected_of(predicted_bundle, BOARD, "int8", TIMINGS)
    assert found is not None
    assert found.device == "Orin Nano"
    assert found.measured_ms == 2.0
    assert found.predicted_ms == next(
        step.ms
        for step in read_prediction().steps
        if (step.backbone, step.size_px, step.device, step.precision)
        == ("resnet18", 112, "Orin Nano", "int8")
    )
    assert f"{2.0 / found.predicted_ms:.2f} times" in str(found)


def test_the_report_of_a_board_has_a_line_for_it(predicted_bundle):
    expected = expected_of(predicted_bundle, BOARD, "int8", TIMINGS)
    assert expected is not None
    report = Report(
        bundle="b",
        graphs={},
        created_utc="",
        facts={},
        idle={},
        loaded={},
        pictures=[],
        proofs=[Proof("int8", expected=expected), Proof("float32")],
        live_interval_ms=250,
    )
    assert f"int8: predicted on {expected.made} for Orin Nano: " in report.markdown()
    assert "float32: predicted" not in report.markdown()
    assert report.to_json()["proofs"][0]["expected"]["measured_ms"] == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"board": ""},
        {"board": "Raspberry Pi 5"},
        {"precision": "float32"},
        {"timings": TIMINGS[:1]},
    ],
)
def test_nothing_is_expected_where_nothing_was_predicted(predicted_bundle, change):
    asked = {"board": BOARD, "precision": "int8", "timings": TIMINGS} | change
    assert expected_of(predicted_bundle, **asked) is None


def test_another_model_has_no_prediction(predicted_bundle):
    other = replace(predicted_bundle, model={**predicted_bundle.model, "temporal": "tim"})
    assert expected_of(other, BOARD, "int8", TIMINGS) is None


def test_the_table_has_a_line_a_model():
    table = steps_as_markdown(read_prediction().steps)
    assert table.count("\n| resnet50 | ") == 2
    assert "Orin Nano, ms | Orin NX, ms | AGX Orin, ms" in table


@pytest.mark.slow
def test_the_command(capsys):
    assert run_command(lambda: main(["--models", "tiny:48"])) == 0
    printed = capsys.readouterr().out
    assert "| AGX Orin | resnet50 | 1 | int8 | 0.636 |" in printed
    assert "| tiny | 48 | " in printed
