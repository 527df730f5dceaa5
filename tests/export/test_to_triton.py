"""The Triton repository: its text, its model file, what it refuses; a real server that runs it."""

from __future__ import annotations

import json
import math
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto

import export.to_triton
from export.to_fp16 import fp16_onnx_from_model
from export.to_triton import main
from export.triton.config import labels_text, model_name, require_sorted
from export.triton.readme import client_code
from runtime.batch_rows import with_open_rows
from runtime.bundle import GRAPH_OF, Bundle, GraphSpec, Precision, StateSpec, load_bundle
from runtime.command import run_command
from runtime.engine import engine_for_bundle
from runtime.errors import ExportError
from runtime.nvidia import find_tensorrt
from runtime.plan import BuildSettings
from runtime.sampling import SamplingContract
from runtime.sessions.base import Logits
from runtime.sessions.cuda_memory import DeviceInfo
from tests.export.real_bundle import write_real_bundle
from tests.export.small import PICTURE, moving_frames, ort_session, run_step, zero_states
from tests.fake_cuda import GPU
from tests.fake_nvidia import fake_tensorrt, install
from tests.mini_bundle import (
    golden_frames,
    mini_model,
    reference_logits,
    write_manifest,
    write_mini_bundle,
)
from tests.triton_schema import parse_config
from tests.triton_server import parse, require_server, running

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
DEVICE = DeviceInfo(GPU, "8.7")
ONNX_TYPES: dict[Any, str] = {
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.FLOAT: "TYPE_FP32",
}
CONFIG = """\
name: "mini_step"
platform: "onnxruntime_onnx"
max_batch_size: 8
input { name: "frame" data_type: TYPE_UINT8 dims: [ 32, 48, 3 ] }
output {
  name: "logits"
  data_type: TYPE_FP32
  dims: [ 3 ]
  label_filename: "labels.txt"
}
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 8 }
  control_input {
    name: "reset"
    control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }
  }
  state {
    input_name: "state_in_00"
    output_name: "state_out_00"
    data_type: TYPE_FP32
    dims: [ 3 ]
    initial_state { name: "zero" data_type: TYPE_FP32 dims: [ 3 ] zero_data: true }
  }
  state {
    input_name: "state_in_01"
    output_name: "state_out_01"
    data_type: TYPE_INT8
    dims: [ 3, 4, 4 ]
    initial_state { name: "zero" data_type: TYPE_INT8 dims: [ 3, 4, 4 ] zero_data: true }
  }
}
instance_group { count: 1 kind: KIND_AUTO }
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_mini_bundle(tmp_path / "bundle", width_px=48, fp16=True)


@pytest.fixture(scope="module")
def real(step_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a packed PEM state and shift states of which two have one shape."""
    step = step_of("tiny", "pem-tsm")
    made = write_real_bundle(tmp_path_factory.mktemp("triton") / "real", step)
    half = made.folder / "step.fp16.onnx"
    states = fp16_onnx_from_model(step.model, PICTURE, half)
    _take_bias(half, made.folder / "step.onnx")
    graphs = {**made.graphs, "step_fp16": GraphSpec("step.fp16.onnx", states)}
    write_manifest(replace(made, graphs=graphs))
    return load_bundle(made.folder)


def _take_bias(path: Path, other: Path) -> None:
    """Give a step graph the bias of another's logits: the float one's were centred."""
    graphs = [onnx.load(each) for each in (path, other)]
    own, wanted = (
        next(
            t
            for t in g.graph.initializer
            for n in g.graph.node
            if "logits" in n.output and t.name == n.input[2]
        )
        for g in graphs
    )
    bias = onnx.numpy_helper.to_array(wanted)
    own.CopyFrom(onnx.numpy_helper.from_array(bias, own.name))
    onnx.save(graphs[0], path)


@pytest.fixture
def export_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, Path]]:
    """`export_to(bundle, *arguments)`: status, all that was said, the repository's path."""

    def command(bundle: Bundle, *arguments: str, name: str = "repository") -> tuple[int, str, Path]:
        out = tmp_path / name
        everything = [str(bundle.folder), "--out", str(out), *arguments]
        status = run_command(lambda: main(everything))
        said = capsys.readouterr()
        assert not [path for path in tmp_path.rglob(".*") if path.suffix in (".part", ".old")]
        return status, said.out + said.err, out

    return command


def _files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_the_repository(export_to, bundle):
    status, said, out = export_to(bundle, "--precision", "int8")
    assert status == 0, said
    assert _files(out) == [
        "README.md",
        "export.json",
        "mini_step/1/model.onnx",
        "mini_step/config.pbtxt",
        "mini_step/labels.txt",
    ]
    assert (out / "mini_step" / "config.pbtxt").read_text() == CONFIG
    assert (out / "mini_step" / "labels.txt").read_text() == "a\nb\nc\n"
    facts = json.loads((out / "export.json").read_text())
    assert facts["precision"] == "int8"
    assert facts["graph_sha256"] == bundle.sha256["step.int8.onnx"]
    assert facts["sampling"]["window_s"] == bundle.sampling.window_s
    assert said.splitlines()[-1].startswith(f"next: tritonserver --model-repository={out}; ")
    assert str(bundle.folder) not in "".join(
        (out / file).read_text() for file in ("README.md", "export.json")
    )


@pytest.mark.parametrize("which", ["mini", "real"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_configuration_is_the_graph(export_to, bundle, real, which, precision):
    """Every input and output of the file is declared, with its type and sizes, and no other."""
    status, said, out = export_to(
        {"mini": bundle, "real": real}[which], "--precision", precision, "--sequences", "3"
    )
    assert status == 0, said
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    config = parse_config((folder / "config.pbtxt").read_text())
    assert config.name == folder.name
    assert config.max_batch_size == 3
    sequences = config.sequence_batching
    assert sequences.oldest.max_candidate_sequences == 3
    declared = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    declared |= {state.input_name: state for state in sequences.state}
    declared |= {state.output_name: state for state in sequences.state}
    found = {name: (tensor.data_type, list(tensor.dims)) for name, tensor in declared.items()}
    # START is a float of its own for each row
    (control,) = sequences.control_input
    assert list(control.control[0].fp32_false_true) == [0, 1]
    fp32 = parse_config("input { data_type: TYPE_FP32 }").input[0].data_type
    found[control.name] = (fp32, [1])
    graph = onnx.load(folder / "1" / "model.onnx").graph
    assert found == {
        tensor.name: (_type_number(tensor), _open_dims(tensor))
        for tensor in (*graph.input, *graph.output)
    }
    for state in sequences.state:
        (initial,) = state.initial_state
        assert initial.zero_data
        assert (initial.data_type, list(initial.dims)) == (state.data_type, list(state.dims))
    names = [(state.input_name, state.output_name) for state in sequences.state]
    assert names == sorted(names)
    assert [name for name, _ in names] == [f"state_in_{i:02d}" for i in range(len(names))]
    assert [name for _, name in names] == [f"state_out_{i:02d}" for i in range(len(names))]
    if which == "real":
        assert len(names) > 2


def _type_number(tensor: onnx.ValueInfoProto) -> int:
    name = ONNX_TYPES[tensor.type.tensor_type.elem_type]
    return int(parse_config(f"input {{ data_type: {name} }}").input[0].data_type)


def _open_dims(tensor: onnx.ValueInfoProto) -> list[int]:
    first, *others = tensor.type.tensor_type.shape.dim
    assert first.dim_param == "N"
    return [size.dim_value for size in others]


@pytest.mark.parametrize(
    "change",
    [
        ("max_candidate_sequences", "max_candidate_sequence"),
        ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_STRAT"),
        ("max_batch_size: 8", "max_batch_size: 8 max_batch_size: 8"),
        ("dims: [ 3 ]", "dims: [ 3, ]"),
    ],
)
def test_the_parser_is_strict(change):
    with pytest.raises(ParseError):
        parse_config(CONFIG.replace(*change))


def test_states_out_of_order_are_refused():
    shape = (1, 3)
    good = [StateSpec(f"state_in_{i:02d}", f"state_out_{i:02d}", shape, "float32") for i in (0, 1)]
    require_sorted(good)
    require_sorted([])
    twelve = [StateSpec(f"state_in_{i}", f"state_out_{i}", shape, "float32") for i in range(12)]
    swapped = [replace(good[0], name_out="state_out_01"), replace(good[1], name_out="state_out_00")]
    for bad in (good[::-1], twelve, swapped, [good[0], good[0]]):
        with pytest.raises(ExportError, match="unique and sorted"):
            require_sorted(bad)


def test_names_and_labels_for_a_server(bundle):
    assert model_name(replace(bundle, name="my kitchen/v1.2")) == "my_kitchen_v1_2_step"
    assert labels_text(replace(bundle, labels=("pick up", "put\ndown"))) == "pick up\nput down\n"


@pytest.mark.parametrize("which", ["mini", "real"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_like_runs_of_their_own(bundle, real, which, precision):
    """Three rows with other frames, states and starts give what three runs give."""
    chosen = {"mini": bundle, "real": real}[which]
    spec = chosen.graph(GRAPH_OF[precision])
    data = with_open_rows(chosen.graph_path(GRAPH_OF[precision]).read_bytes())
    batch, alone = ort_session(onnx.load_from_string(data)), ort_session(chosen.folder / spec.file)
    frames = np.stack([moving_frames(6, chosen.picture, seed) for seed in range(3)], axis=1)
    reset = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    together, apart = zero_states(spec.states, 3), [zero_states(spec.states) for _ in range(3)]
    for step in range(6):
        logits, together = run_step(batch, frames[step], list(reset[step]), together)
        for row in range(3):
            own, apart[row] = run_step(
                alone, frames[step, row : row + 1], [reset[step, row]], apart[row]
            )
            np.testing.assert_allclose(logits[row], own[0], rtol=1e-4, atol=1e-4)
    # the same file with another number of rows
    assert run_step(batch, frames[0, :2], [1, 1], zero_states(spec.states, 2))[0].shape[0] == 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_start_clears_its_row_and_no_other(real, precision):
    spec = real.graph(GRAPH_OF[precision])
    session = ort_session(
        onnx.load_from_string(with_open_rows((real.folder / spec.file).read_bytes()))
    )
    frames = np.repeat(moving_frames(1, real.picture), 2, axis=0)
    rng = np.random.default_rng(0)
    dirty = {
        state.name_in: rng.integers(-100, 100, (2, *state.shape[1:])).astype(state.dtype)
        for state in spec.states
    }
    started, after = run_step(session, frames, [1, 0], dirty)
    fresh, after_fresh = run_step(session, frames, [0, 0], zero_states(spec.states, 2))
    kept, after_kept = run_step(session, frames, [0, 0], dirty)
    np.testing.assert_allclose(started[0], fresh[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(started[1], kept[1], rtol=1e-5, atol=1e-5)
    assert np.abs(fresh[0] - kept[0]).max() > 1e-2
    for name, value in after.items():
        np.testing.assert_allclose(value[0], after_fresh[name][0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(value[1], after_kept[name][1], rtol=1e-5, atol=1e-5)


def test_the_readme_holds_the_contract(export_to, tmp_path):
    bundle = write_mini_bundle(
        tmp_path / "dense", num_segments=8, window_s=2.5, consensus_len=5, crop="center"
    )
    _, _, out = export_to(bundle, "--sequences", "12")
    text = (out / "README.md").read_text()
    for fact in (
        "One frame every **0.3125 s**",
        "2.5 s in 8 segments",
        "last **5** logits",
        "Before 8 frames",
        "gap of more\n   than 0.625 s",
        "1 x 32 x 32 x 3",
        "crop `center`",
        "2 phases take turns",
        "silent for 5 s",
        "up to 12 of them",
        "have not run it",
    ):
        assert fact in text, fact
    assert max(map(len, text.splitlines())) <= 100
    slow = SamplingContract(num_segments=4, window_s=20.0, consensus_len=4)
    _, _, out = export_to(_rewritten(bundle, sampling=slow.to_json()), name="slow")
    assert (
        "max_sequence_idle_microseconds: 20000000"
        in (out / "mini_step" / "config.pbtxt").read_text()
    )


def _rewritten(bundle: Bundle, **changes: Any) -> Bundle:
    write_manifest(bundle, **changes)
    return load_bundle(bundle.folder, verify=False)


def test_an_earlier_repository_is_replaced_and_others_are_not(export_to, bundle, tmp_path):
    (tmp_path / "repository").mkdir()
    assert export_to(bundle)[0] == 0  # an empty folder is nobody's
    assert export_to(bundle, "--precision", "int8")[0] == 0
    out = tmp_path / "repository"
    assert json.loads((out / "export.json").read_text())["precision"] == "int8"
    before = _files(out)
    (out / "another_model").mkdir()
    status, said, _ = export_to(bundle)
    assert (status, _files(out)) == (1, before)
    assert said.splitlines()[-1] == (
        f"error: {out} holds another_model, which is not of an earlier export.to_triton; "
        "choose another --out"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    status, said, _ = export_to(bundle, name="other")
    assert (status, _files(other)) == (1, ["precious.txt"])
    assert "holds precious.txt" in said
    for spoilt in ("[]", "{", '{"made_by": "someone", "model": "x"}'):
        (other / "export.json").write_text(spoilt)
        assert export_to(bundle, name="other")[0] == 1
    (tmp_path / "file").write_text("mine")
    assert export_to(bundle, name="file")[0] == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_repository(export_to, bundle, monkeypatch):
    _, _, out = export_to(bundle)

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(export.to_triton, "write_json", full)
    status, said, _ = export_to(bundle, "--precision", "int8")
    assert status == 1
    assert "No space left on device" in said.splitlines()[-1]
    assert json.loads((out / "export.json").read_text())["precision"] == "float32"
    assert len(_files(out)) == 5


def test_what_cannot_be_served(export_to, bundle, tmp_path):
    def refusal(which: Bundle, *arguments: str) -> str:
        status, said, out = export_to(which, *arguments)
        assert status == 1
        assert not out.exists()
        assert len(said.splitlines()) == 1
        return said

    assert "--sequences must be >= 1, got 0" in refusal(bundle, "--sequences", "0")
    no_int8 = write_mini_bundle(tmp_path / "float", int8=False)
    assert "has no step_int8 graph" in refusal(no_int8, "--precision", "int8")
    assert "holds a lookahead model, which needs whole clips" in refusal(
        _rewritten(no_int8, model={"form": "lookahead"})
    )
    graphs = {"clip": {"file": "clip.onnx", "states": []}}
    write_manifest(bundle, graphs=graphs, sha256={"clip.onnx": "0", "golden.npz": "0"})
    assert "step.onnx" in refusal(bundle)
    write_manifest(bundle)
    with (bundle.folder / "step.onnx").open("ab") as file:
        file.write(b"\0")
    assert "does not match its hash" in refusal(bundle)


def _spoilt(bundle: Bundle, spoil: Callable[[onnx.GraphProto], None]) -> Bundle:
    """The bundle with another step graph, hashed anew."""
    path = bundle.folder / "step.onnx"
    model = onnx.load(path)
    spoil(model.graph)
    onnx.save(model, path)
    write_manifest(bundle)
    return bundle


def test_a_graph_that_holds_its_batch_size_is_refused(export_to, bundle):
    def fix(graph: onnx.GraphProto) -> None:
        last = graph.node[-1]
        (gemm,) = (node for node in graph.node if node.op_type == "Gemm")
        shape = onnx.numpy_helper.from_array(np.array([1, 3], np.int64), "fixed")
        graph.initializer.append(shape)
        reshape = onnx.helper.make_node("Reshape", [gemm.output[0], "fixed"], ["fixed_row"])
        last.input[0] = "fixed_row"
        graph.node.insert(len(graph.node) - 1, reshape)

    status, said, out = export_to(_spoilt(bundle, fix))
    assert (status, out.exists()) == (1, False)
    assert "does not run with 2 rows" in said
    assert "a node holds the batch size" in said


def test_a_graph_that_mixes_its_rows_is_refused(export_to, bundle):
    def mix(graph: onnx.GraphProto) -> None:
        """Every row gets the largest logits of all rows: right for one row."""
        last = graph.node[-1]
        row = last.input[0]
        node = onnx.helper.make_node
        graph.node.insert(
            len(graph.node) - 1, node("ReduceMax", [row], ["most"], axes=[0], keepdims=1)
        )
        graph.node.insert(len(graph.node) - 1, node("Sub", ["most", row], ["less"]))
        graph.node.insert(len(graph.node) - 1, node("Add", [row, "less"], ["mixed"]))
        last.input[0] = "mixed"

    status, said, out = export_to(_spoilt(bundle, mix))
    assert (status, out.exists()) == (1, False)
    assert "step.onnx with 2 rows does not give its golden logits" in said


def test_a_plan(export_to, bundle, tmp_path, monkeypatch):
    machine = install(monkeypatch)
    trt = find_tensorrt(("tensorrt",))
    assert trt is not None

    def built(which: Bundle = bundle, precision: Precision = "int8", **changes: Any) -> str:
        arguments: dict[str, Any] = {"trt": trt, "device": DEVICE} | changes
        return str(engine_for_bundle(which, precision, tmp_path / "engines", **arguments))

    plan = built()
    status, said, out = export_to(bundle, "--engine", plan)
    assert status == 0, said
    assert (out / "mini_step" / "1" / "model.plan").read_bytes() == Path(plan).read_bytes()
    config = (out / "mini_step" / "config.pbtxt").read_text()
    # a plan has the one row it was built with; everything else is as for an ONNX file
    assert config == CONFIG.replace("onnxruntime_onnx", "tensorrt_plan").replace(
        "max_batch_size: 8", "max_batch_size: 1"
    )
    readme = (out / "README.md").read_text()
    assert "tensorrt backend with TensorRT 10.3.0 and the GPU Emulated Orin" in readme
    refused = {
        "built for 2 streams": [built(settings=BuildSettings(num_streams=2))],
        "built from the int8 graph, not float32": [plan, "--precision", "float32"],
        "another bundle's int8 graph": [
            built(write_mini_bundle(tmp_path / "other", width_px=48, seed=1))
        ],
        "Triton loads plans of TensorRT only": [
            built(trt=fake_tensorrt(machine, name="tensorrt_rtx"))
        ],
    }
    for reason, arguments in refused.items():
        status, said, _ = export_to(bundle, "--engine", *arguments, name="refused")
        assert status == 1
        assert reason in said, said
        assert not (tmp_path / "refused").exists()
    Path(plan).write_bytes(b"changed")
    assert "has changed since it was built" in export_to(bundle, "--engine", plan)[1]


# ---------------------------------------------------------------- a real server


def _client(bundle: Bundle, address: str) -> Callable[..., Logits]:
    """`step` of the README's client, for the server at this address."""
    code = client_code(bundle).replace("http://localhost:8000", address)
    names: dict[str, Any] = {"frames": []}
    exec(compile(code, "README.md", "exec"), names)
    return lambda *arguments, **more: np.asarray(names["step"](*arguments, **more), np.float32)


@pytest.mark.triton
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_server_parses_the_repository(export_to, real, precision):
    """It stops at the backend that it lacks, and only there."""
    require_server()
    _, _, out = export_to(real, "--precision", precision)
    log = parse(out)
    assert "loading: real_step:1" in log
    assert "unable to find backend library for backend 'onnxruntime'" in log
    assert "Poll failed" not in log
    config = out / "real_step" / "config.pbtxt"
    good = config.read_text()
    for old, new, reason in (
        ("zero_data: true", "zero_datum: true", "failed to read text proto"),
        ("START fp32_false_true: [ 0, 1 ]", "START fp32_false_true: [ 0 ]", "exactly 2 entries"),
        ("onnxruntime_onnx", "onnx", "unexpected platform type"),
        ("real_step", "unreal_step", "directory name must equal model name"),
    ):
        assert old in good
        config.write_text(good.replace(old, new))
        broken = parse(out)
        assert "Poll failed" in broken
        assert reason in broken
        assert "unable to find backend" not in broken


@pytest.mark.triton
def test_a_server_parses_a_plans_repository(export_to, bundle, tmp_path, monkeypatch):
    require_server()
    install(monkeypatch)
    trt = find_tensorrt(("tensorrt",))
    assert trt is not None
    plan = engine_for_bundle(bundle, "int8", tmp_path / "engines", trt=trt, device=DEVICE)
    _, _, out = export_to(bundle, "--engine", str(plan))
    log = parse(out)
    assert "unable to find backend library for backend 'tensorrt'" in log
    assert "Poll failed" not in log


@pytest.mark.triton
def test_the_readmes_client(export_to, bundle, tmp_path, capsys):
    """The client as it stands in the README gets the logits that numpy computes."""
    require_server()
    _, _, out = export_to(bundle, "--precision", "int8")
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    frames = golden_frames(32, 48, 10)
    with running(out, tmp_path) as (address, stand_in):
        names: dict[str, Any] = {"frames": frames}
        exec(compile(code.replace("http://localhost:8000", address), "README.md", "exec"), names)
    expected = reference_logits(mini_model(3), frames, int8=True)
    np.testing.assert_allclose(names["recent"], expected[-4:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(names["logits"], expected[-4:].mean(0), rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().out.count("warming") == 3
    resets = np.concatenate([batch["reset"] for batch in stand_in.batches])
    assert resets.shape == (10, 1)
    assert resets.ravel().tolist() == [1] + [0] * 9
    assert not any(value.any() for name, value in stand_in.batches[0].items() if "state" in name)


@pytest.mark.triton
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cameras_share_batches_and_nothing_else(export_to, real, tmp_path, precision):
    """Three cameras at once, one restarts midway: each gets what it gets alone."""
    require_server()
    _, _, out = export_to(real, "--precision", precision)
    steps, cameras = 8, (1, 2, 3)
    frames = {camera: moving_frames(steps, real.picture, seed=camera) for camera in cameras}
    starts = {camera: (0, 5) if camera == 2 else (0,) for camera in cameras}
    got: dict[int, list[NDArray[np.float32]]] = {camera: [] for camera in cameras}
    with running(out, tmp_path) as (address, stand_in):
        stand_in.pause_s = 0.03
        step = _client(real, address)

        def film(camera: int) -> None:
            for number, frame in enumerate(frames[camera]):
                got[camera].append(step(frame, camera, start=number in starts[camera]))

        threads = [threading.Thread(target=film, args=(camera,)) for camera in cameras]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        largest = max(len(batch["reset"]) for batch in stand_in.batches)
    assert largest > 1
    assert sum(len(batch["reset"]) for batch in stand_in.batches) == steps * len(cameras)
    spec = real.graph(GRAPH_OF[precision])
    for camera in cameras:
        session, carried = ort_session(real.folder / spec.file), zero_states(spec.states)
        alone = []
        for number, frame in enumerate(frames[camera]):
            reset = [float(number in starts[camera])]
            logits, carried = run_step(session, frame[np.newaxis], reset, carried)
            alone.append(logits[0])
        assert _decibels(np.stack(got[camera]), np.stack(alone)) > 60


def _decibels(got: Logits, expected: Logits) -> float:
    noise = float(np.square(got - expected).sum())
    return math.inf if noise == 0 else 10 * math.log10(float(np.square(expected).sum()) / noise)


@pytest.mark.triton
def test_why_names_must_sort_as_they_pair(export_to, bundle, tmp_path):
    """The server pairs states by the order of their names, whatever the configuration says.

    Should this fail with a newer server (server#8586), `require_sorted` is no longer needed.
    """
    require_server()
    _, _, out = export_to(bundle)
    config = out / "mini_step" / "config.pbtxt"
    one, other = '"state_out_00"', '"state_out_01"'
    mispaired = config.read_text().replace(one, "X").replace(other, one).replace("X", other)
    config.write_text(mispaired)
    frames = golden_frames(32, 48, 4)
    with running(out, tmp_path) as (address, _):
        step = _client(bundle, address)
        got = [step(frame, 1, start=number == 0) for number, frame in enumerate(frames)]
    np.testing.assert_allclose(got, reference_logits(mini_model(3), frames), rtol=1e-3, atol=1e-3)


@pytest.mark.triton
def test_sequences_begin_and_end(export_to, bundle, tmp_path):
    """Without START a camera is refused, also after its end and after a long silence."""
    require_server()
    _, _, out = export_to(bundle)
    config = out / "mini_step" / "config.pbtxt"
    config.write_text(config.read_text().replace("microseconds: 5000000", "microseconds: 300000"))
    frames = golden_frames(32, 48, 4)
    expected = reference_logits(mini_model(3), frames)
    with running(out, tmp_path) as (address, _):
        step = _client(bundle, address)

        def refused(camera: int) -> bool:
            try:
                step(frames[0], camera)
            except urllib.error.HTTPError as err:
                return b"START flag" in err.read()
            return False

        assert refused(7)
        got = [
            step(frame, 7, start=number == 0, end=number == 3)
            for number, frame in enumerate(frames)
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
        assert refused(7)
        step(frames[0], 8, start=True)
        assert not refused(8)
        silent = threading.Event()
        assert any(silent.wait(0.5) or refused(8) for _ in range(20))
