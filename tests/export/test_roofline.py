"""The prediction for devices: what is counted, what is fitted, and what a device is shown."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest

import export.predict
from export.graph_view import load_graph
from export.marked_page import END
from export.predict import (
    BEGIN,
    PAGE,
    PRECISIONS,
    kernels_of,
    main,
    predict,
    published_kernels,
)
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
from export.roofline.table import PREDICTED, read_prediction, steps_as_markdown
from runtime.command import run_command
from tests.mini_bundle import write_mini_bundle
from train.model.backbones.table import BACKBONES
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


def report_of(bundle, board, precisions=("int8", "float16"), timings=TIMINGS, **changes):
    """What `make verify` would find on a board, without running anything."""
    proofs = [
        Proof(name, timings=list(timings), expected=expected_of(bundle, board, name, timings))
        for name in precisions
    ]
    found = Report(
        bundle="b",
        model=bundle.model,
        size_px=(bundle.picture.height_px, bundle.picture.width_px),
        graphs={},
        created_utc="2027-01-02T03:04:05+00:00",
        facts={"board": board, "power_mode": "MAXN_SUPER", "engine": "tensorrt 10.3.0"},
        idle={},
        loaded={},
        pictures=[],
        proofs=proofs,
        live_interval_ms=250,
    )
    return replace(found, **changes)


def test_the_report_of_a_board_has_a_table_for_it(predicted_bundle):
    report = report_of(predicted_bundle, BOARD, ("int8", "float16", "float32"))
    expected = report.proofs[0].expected
    assert expected is not None
    text = report.markdown()
    assert "| precision | predicted ms | measured ms | measured ÷ predicted |" in text
    row = f"| int8 | {expected.predicted_ms:.2f} | 2.00 | {2.0 / expected.predicted_ms:.2f} |"
    assert row in text
    assert f"\nPredicted on {expected.made} for Orin Nano at its highest clocks" in text
    assert text.count("| 2.00 | ") >= 2
    assert "\n| float32 | " not in text.partition("| predicted ms |")[2]
    assert report.to_json()["proofs"][0]["expected"]["measured_ms"] == 2.0


def test_the_report_of_another_machine_has_none(predicted_bundle):
    assert "redicted" not in report_of(predicted_bundle, "Raspberry Pi 5").markdown()


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
    assert "measured" not in table
    assert "Orin Nano, ms | Orin NX, ms | AGX Orin, ms" in table


def test_every_backbone_has_a_prediction():
    found = {(step.backbone, step.size_px) for step in read_prediction().steps}
    large = set(BACKBONES) - {"tiny"}
    assert found == {(name, size_px) for name in large for size_px in (224, 112)} | {("tiny", 48)}


def test_the_page_has_the_stored_prediction():
    """Rows may have gone on: what devices measured comes at their end."""
    _, _, marked = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = marked.partition(END)[0].splitlines()
    for line in steps_as_markdown(read_prediction().steps).splitlines():
        assert any(each.startswith(line) for each in page), line


@pytest.fixture
def verified(tmp_path, predicted_bundle):
    """`verified(name)`: a file of `make verify` on a board that has a prediction."""

    def file(name, board=BOARD, spoil=None, **changes):
        data = report_of(predicted_bundle, board, **changes).to_json()
        if spoil is not None:
            spoil(data)
        path = tmp_path / name
        path.write_text(json.dumps(data), encoding="utf-8")
        return str(path)

    return file


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(export.predict, "PAGE", path)
    return path


def columns_of(table):
    """Cells by the backbone and size of their row, then by column; the last of equal names."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| ")
    ]
    return {(row[0], row[1]): dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def test_measured_columns_are_added_for_the_rows_that_files_hold(verified, page, capsys):
    agx = "NVIDIA Jetson AGX Orin Developer Kit"
    faster = [replace(each, p50_ms=each.p50_ms / 2) for each in TIMINGS]
    files = [
        verified("nano.json", precisions=("int8", "float16")),
        verified("agx.json", agx, precisions=("int8", "float32"), timings=faster),
    ]
    stored = PREDICTED.read_bytes()
    assert run_command(lambda: main(["--measured", *files, "--write"])) == 0
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    table = written.partition(BEGIN)[2].partition(END)[0]
    assert table.strip() in capsys.readouterr().out
    by_case = columns_of(table)
    row, other = by_case["resnet18", "112"], by_case["resnet18", "224"]
    predicted = {
        (step.device, step.precision): step.ms
        for step in read_prediction().steps
        if (step.backbone, step.size_px) == ("resnet18", 112)
    }
    assert row["Orin Nano measured, ms"] == "2.00 / 2.00"
    assert row["AGX Orin measured, ms"] == "1.00 / –"
    assert row["measured ÷ predicted"] == f"{1.0 / predicted['AGX Orin', 'int8']:.2f} / –"
    both = [2.0 / predicted["Orin Nano", precision] for precision in ("int8", "float16")]
    assert f"| 2.00 / 2.00 | {both[0]:.2f} / {both[1]:.2f} |" in table
    assert other["Orin Nano measured, ms"] == other["AGX Orin measured, ms"] == "– / –"
    assert "Orin NX measured" not in table
    line = "* resnet18 at 112, int8, on Orin Nano: 2027-01-02, power mode MAXN_SUPER, tensorrt"
    assert line in table
    assert PREDICTED.read_bytes() == stored


def test_without_write_the_page_stays(verified, page):
    before = page.read_bytes()
    assert run_command(lambda: main(["--measured", verified("nano.json")])) == 0
    assert page.read_bytes() == before


def _without_model(data):
    del data["model"]


def _without_size(data):
    data["size_px"] = None


def _null_time(data):
    data["proofs"][0]["timings"][1]["p50_ms"] = None


def _no_time(data):
    data["proofs"][0]["timings"][1]["p50_ms"] = 0


def _failed(data):
    data["passed"] = False


def _no_report(data):
    data.clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spoil": _no_report}, "is no report of `make verify`"),
        ({"spoil": _failed}, "is of a device that failed `make verify`"),
        ({"spoil": _without_model}, r"does not say what it measured .*'model'.* run `make verify`"),
        ({"spoil": _without_size}, "does not say what it measured"),
        ({"spoil": _null_time}, "does not say what it measured"),
        ({"spoil": _no_time}, "p50_ms must be finite and > 0, got 0"),
        ({"board": ""}, "predicted: it has resnet18 at 112 x 112 on a machine that is no board"),
        ({"board": "Raspberry Pi 5"}, "predicted: it has resnet18 at 112 x 112 on Raspberry Pi 5"),
        ({"precisions": ("float32",)}, "measured nothing that was predicted"),
        ({"timings": TIMINGS[:1]}, "measured nothing that was predicted"),
    ],
)
def test_a_file_that_tells_nothing_is_one_line(verified, page, capsys, changes, message):
    path, before = verified("bad.json", **changes), page.read_bytes()
    good = verified("good.json")
    assert run_command(lambda: main(["--measured", good, path, "--write"])) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {path} ")
    assert re.search(message, line)
    assert page.read_bytes() == before


@pytest.mark.parametrize("content", ["no json", "[]", '{"verify_version": 99}', None])
def test_a_file_that_is_no_report_is_one_line(tmp_path, page, capsys, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    assert run_command(lambda: main(["--measured", str(path)])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} is no report of `make verify`")


def test_two_files_with_the_same_row_are_refused(verified, page, capsys):
    first, second = verified("first.json"), verified("second.json", precisions=("float16",))
    assert run_command(lambda: main(["--measured", first, second])) == 1
    error = capsys.readouterr().err
    assert f"error: {first} and {second} both hold resnet18 at 112, float16, on Orin Nano" in error


def test_measured_and_models_exclude_each_other(verified, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--measured", verified("nano.json"), "--models", "tiny:48"])
    assert ended.value.code == 2
    assert "not allowed with argument --measured" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_page_and_file(page, tmp_path, monkeypatch):
    stored = tmp_path / "predicted.json"
    monkeypatch.setattr(export.predict, "PREDICTED", stored)
    assert run_command(lambda: main(["--models", "tiny:48", "--write"])) == 0
    steps = read_prediction(stored).steps
    assert {step.backbone for step in steps} == {"tiny"}
    assert steps_as_markdown(steps) in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command(capsys):
    assert run_command(lambda: main(["--models", "tiny:48"])) == 0
    printed = capsys.readouterr().out
    assert "| AGX Orin | resnet50 | 1 | int8 | 0.636 |" in printed
    assert "| tiny | 48 | " in printed
