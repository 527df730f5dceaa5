"""A small but valid bundle, written with `onnx.helper`: no torch, no training, a few kilobytes.

The step graph is recurrent and honours `reset`; `reference_logits` computes the same numbers in
numpy, so that a test never has to believe an engine.

    pooled_t  = mean over pixels of frame_t / 255                    (N, 3)
    vector_t  = 0.5 * vector_{t-1} + 0.5 * pooled_t                  state 00, (N, 3)
    map_t     = average pool of frame_t / 255 to 4 x 4               state 01, (N, 3, 4, 4)
    change_t  = mean over the map of |map_t - map_{t-1}|             (N, 3)
    logits_t  = [pooled_t, vector_t, change_t] @ weights + bias      (N, K)

The half graph pools its map in float16; its inputs and outputs are float32.
The INT8 graph keeps state 01 as int8 (scale 1/127, zero point 0) and rounds the map on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import (
    CLIP_INPUT,
    FRAME_INPUT,
    GOLDEN,
    LOGITS_OUTPUT,
    MANIFEST,
    RESET_INPUT,
    Bundle,
    GraphKind,
    GraphSpec,
    StateDtype,
    StateSpec,
    load_bundle,
)
from runtime.files import sha256_of, write_json
from runtime.preprocess import Crop, PictureRule, fit_picture
from runtime.sampling import SamplingContract

OPSET = 17
IR_VERSION = 8
MAP_PX = 4
CHANNELS = 3
MAP_SCALE = np.float32(1 / 127)
GOLDEN_STEPS = 12
GOLDEN_RESETS = (0, 8)


@dataclass(frozen=True)
class MiniModel:
    """Weights of the graph: `weights` (9, K) and `bias` (K,), float32."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def mini_model(num_labels: int, seed: int = 0) -> MiniModel:
    """The weights that `write_mini_bundle` puts into the graphs."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 8, (3 * CHANNELS, num_labels)).astype(np.float32)
    weights[2 * CHANNELS :] *= 4  # change is small, and must matter
    return MiniModel(weights, rng.normal(0, 0.5, num_labels).astype(np.float32))


def reference_logits(
    model: MiniModel,
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32] | None = None,
    *,
    int8: bool = False,
) -> NDArray[np.float32]:
    """The graphs in numpy: frames (S, H, W, 3) uint8 and reset (S,) to logits (S, K).

    Without `reset` the first frame starts from the zero state.
    """
    steps, height, width, _ = frames.shape
    starts = np.zeros(steps, np.float32) if reset is None else reset
    vector = np.zeros(CHANNELS, np.float32)
    last_map = np.zeros((CHANNELS, MAP_PX, MAP_PX), np.float32)
    logits = []
    for frame, start in zip(frames, starts, strict=True):
        if start > 0.5:
            vector, last_map = np.zeros_like(vector), np.zeros_like(last_map)
        scaled = (frame.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)
        pooled = scaled.mean(axis=(1, 2))
        blocks = scaled.reshape(CHANNELS, MAP_PX, height // MAP_PX, MAP_PX, width // MAP_PX)
        this_map = blocks.mean(axis=(2, 4))
        if int8:
            this_map = np.clip(np.rint(this_map / MAP_SCALE), -128, 127) * MAP_SCALE
        vector = np.float32(0.5) * vector + np.float32(0.5) * pooled
        change = np.abs(this_map - last_map).mean(axis=(1, 2))
        last_map = this_map
        logits.append(np.concatenate([pooled, vector, change]) @ model.weights + model.bias)
    return np.asarray(logits, np.float32)


def write_mini_bundle(
    folder: Path,
    *,
    labels: Sequence[str] = ("a", "b", "c"),
    height_px: int = 32,
    width_px: int = 32,
    crop: Crop = "full",
    num_segments: int = 4,
    window_s: float = 1.0,
    consensus_len: int | None = None,
    num_streams: int = 1,
    fp16: bool = False,
    int8: bool = True,
    seed: int = 0,
) -> Bundle:
    """Write the bundle into `folder` (made if needed) and load it with every check.

    Args:
        folder: The new bundle folder.
        labels: Class names; their number is K.
        height_px: Height of the model's picture, a multiple of 4.
        width_px: Width of the model's picture, a multiple of 4.
        crop: Crop rule, `center` or `full`.
        num_segments: Segments T.
        window_s: Seconds that T frames span.
        consensus_len: Logits a decision averages; T where it is None.
        num_streams: Rows N of the graphs.
        fp16: Write `step.fp16.onnx` too; older bundles have none.
        int8: Write `step.int8.onnx` too.
        seed: Seed of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = mini_model(len(labels), seed)
    picture = PictureRule(height_px=height_px, width_px=width_px, crop=crop)
    graphs: dict[GraphKind, GraphSpec] = {
        "step": GraphSpec("step.onnx", _states(num_streams, "float32")),
        "clip": GraphSpec("clip.onnx"),
    }
    size = (num_streams, height_px, width_px)
    onnx.save(step_graph(model, size), folder / "step.onnx")
    onnx.save(clip_graph(model, size, num_segments), folder / "clip.onnx")
    if fp16:
        graphs["step_fp16"] = GraphSpec("step.fp16.onnx", _states(num_streams, "float32"))
        onnx.save(step_graph(model, size, fp16=True), folder / "step.fp16.onnx")
    if int8:
        graphs["step_int8"] = GraphSpec("step.int8.onnx", _states(num_streams, "int8"))
        onnx.save(step_graph(model, size, int8=True), folder / "step.int8.onnx")
    write_golden(folder, model, picture, int8=int8)
    bundle = Bundle(
        folder=folder,
        name="mini",
        labels=tuple(labels),
        picture=picture,
        sampling=SamplingContract(
            num_segments=num_segments,
            window_s=window_s,
            consensus_len=num_segments if consensus_len is None else consensus_len,
        ),
        graphs=graphs,
        model={"backbone": "mini"},
        created_utc="2026-01-01T00:00:00Z",
    )
    write_manifest(bundle)
    return load_bundle(folder)


def write_manifest(bundle: Bundle, **changes: Any) -> None:
    """Write `bundle.json` with fresh hashes; `changes` replace top-level JSON fields."""
    names = [graph.file for graph in bundle.graphs.values()] + [GOLDEN]
    hashed = replace(bundle, sha256={name: sha256_of(bundle.folder / name) for name in names})
    write_json(bundle.folder / MANIFEST, hashed.to_json() | changes)


def golden_frames(height_px: int, width_px: int, steps: int = GOLDEN_STEPS) -> NDArray[np.uint8]:
    """A soft coloured bar that moves over a gradient, shape (steps, height_px, width_px, 3)."""
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    frames = np.empty((steps, height_px, width_px, CHANNELS), np.uint8)
    for step in range(steps):
        bar = np.exp(-(((x / width_px) - (step + 0.5) / steps) ** 2) / 0.02)
        red = 40 + 30 * y / height_px + 160 * bar
        green = 90 + 60 * x / width_px - 60 * bar * (step % 3)
        blue = np.full_like(x, 20 + 18 * step)
        frames[step] = np.clip(np.stack([red, green, blue], axis=2), 0, 255)
    return frames


def write_golden(folder: Path, model: MiniModel, picture: PictureRule, *, int8: bool) -> None:
    """Write `golden.npz` from the numpy reference, with three camera-sized pictures."""
    frames = golden_frames(picture.height_px, picture.width_px)
    reset = np.zeros(len(frames), np.float32)
    reset[list(GOLDEN_RESETS)] = 1
    logits_int8 = np.zeros((0, len(model.bias)), np.float32)
    if int8:
        logits_int8 = reference_logits(model, frames, reset, int8=True)
    cameras = [golden_frames(h, w, 4)[2] for h, w in ((480, 640), (720, 1280), (240, 320))]
    arrays: Mapping[str, Any] = {
        "frames": frames,
        "reset": reset,
        "logits": reference_logits(model, frames, reset),
        "logits_int8": logits_int8,
        "camera_pictures": np.stack([fit_picture(camera, picture) for camera in cameras]),
        **{f"camera_frame_{i}": camera for i, camera in enumerate(cameras)},
    }
    np.savez_compressed(folder / GOLDEN, **arrays)


def step_graph(
    model: MiniModel, size: tuple[int, int, int], *, fp16: bool = False, int8: bool = False
) -> onnx.ModelProto:
    """The step graph for (N, H, W); `int8` keeps state 01 quantised, `fp16` pools it in half."""
    streams, height, width = size
    graph = _GraphWriter(model, height, width, fp16=fp16, int8=int8)
    vector, change_map, logits = graph.step(
        "", FRAME_INPUT, "state_in_00", "state_in_01", RESET_INPUT
    )
    for inner, outer in (
        (vector, "state_out_00"),
        (change_map, "state_out_01"),
        (logits, LOGITS_OUTPUT),
    ):
        graph.op("Identity", [inner], outer)
    state_type = TensorProto.INT8 if int8 else TensorProto.FLOAT
    shape_map = [streams, CHANNELS, MAP_PX, MAP_PX]
    inputs = [
        helper.make_tensor_value_info(
            FRAME_INPUT, TensorProto.UINT8, [streams, height, width, CHANNELS]
        ),
        helper.make_tensor_value_info(RESET_INPUT, TensorProto.FLOAT, [streams, 1]),
        helper.make_tensor_value_info("state_in_00", TensorProto.FLOAT, [streams, CHANNELS]),
        helper.make_tensor_value_info("state_in_01", state_type, shape_map),
    ]
    outputs = [
        helper.make_tensor_value_info(LOGITS_OUTPUT, TensorProto.FLOAT, [streams, len(model.bias)]),
        helper.make_tensor_value_info("state_out_00", TensorProto.FLOAT, [streams, CHANNELS]),
        helper.make_tensor_value_info("state_out_01", state_type, shape_map),
    ]
    return graph.finish("mini_step", inputs, outputs)


def clip_graph(model: MiniModel, size: tuple[int, int, int], num_segments: int) -> onnx.ModelProto:
    """T steps unrolled from the zero state: clip (N, T, H, W, 3) uint8 to logits (N, T, K)."""
    streams, height, width = size
    graph = _GraphWriter(model, height, width, fp16=False, int8=False)
    frames = [f"frame_{t}" for t in range(num_segments)]
    graph.nodes.append(helper.make_node("Split", [CLIP_INPUT], frames, axis=1))
    axis = graph.constant("axis_1", np.array([1], np.int64))
    reset = graph.constant("start", np.ones((1, 1), np.float32))
    vector = graph.constant("zero_vector", np.zeros((1, CHANNELS), np.float32))
    last_map = graph.constant("zero_map", np.zeros((1, CHANNELS, MAP_PX, MAP_PX), np.float32))
    per_frame = []
    for t, frame in enumerate(frames):
        picture = graph.op("Squeeze", [frame, axis], f"picture_{t}")
        vector, last_map, logits = graph.step(f"t{t}_", picture, vector, last_map, reset)
        reset = graph.constant("go_on", np.zeros((1, 1), np.float32))
        per_frame.append(graph.op("Unsqueeze", [logits, axis], f"logits_{t}"))
    graph.nodes.append(helper.make_node("Concat", per_frame, [LOGITS_OUTPUT], axis=1))
    clip_shape = [streams, num_segments, height, width, CHANNELS]
    logits_shape = [streams, num_segments, len(model.bias)]
    return graph.finish(
        "mini_clip",
        [helper.make_tensor_value_info(CLIP_INPUT, TensorProto.UINT8, clip_shape)],
        [helper.make_tensor_value_info(LOGITS_OUTPUT, TensorProto.FLOAT, logits_shape)],
    )


def _states(num_streams: int, map_dtype: StateDtype) -> tuple[StateSpec, ...]:
    map_shape = (num_streams, CHANNELS, MAP_PX, MAP_PX)
    return (
        StateSpec("state_in_00", "state_out_00", (num_streams, CHANNELS), "float32"),
        StateSpec("state_in_01", "state_out_01", map_shape, map_dtype),
    )


class _GraphWriter:
    """Collects nodes and constants of one graph."""

    def __init__(
        self, model: MiniModel, height: int, width: int, *, fp16: bool, int8: bool
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._pool_px = [height // MAP_PX, width // MAP_PX]
        self._fp16 = fp16
        self._int8 = int8
        self._weights = self.constant("weights", model.weights)
        self._bias = self.constant("bias", model.bias)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], output, **attributes))
        return output

    def step(
        self, prefix: str, frame: str, vector_in: str, map_in: str, reset: str
    ) -> tuple[str, str, str]:
        """One step's nodes; gives the names of the vector, the map and the logits."""
        zero = self.constant("zero", np.zeros((), np.float32))
        half = self.constant("half", np.asarray(0.5, np.float32))
        starts = self.op("Greater", [reset, half], prefix + "starts")
        old_vector = self.op("Where", [starts, zero, vector_in], prefix + "old_vector")
        old_map = self._old_map(prefix, starts, zero, map_in)
        scaled = self._scaled(prefix, frame)
        pooled = self.op("ReduceMean", [scaled], prefix + "pooled", axes=[2, 3], keepdims=0)
        both = self.op("Add", [old_vector, pooled], prefix + "both")
        vector = self.op("Mul", [both, half], prefix + "vector")
        map_out, this_map = self._this_map(prefix, scaled)
        difference = self.op("Sub", [this_map, old_map], prefix + "difference")
        size = self.op("Abs", [difference], prefix + "size")
        change = self.op("ReduceMean", [size], prefix + "change", axes=[2, 3], keepdims=0)
        features = self.op("Concat", [pooled, vector, change], prefix + "features", axis=1)
        logits = self.op("Gemm", [features, self._weights, self._bias], prefix + "row")
        return vector, map_out, logits

    def finish(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        constants = list(self._constants.values())
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _scaled(self, prefix: str, frame: str) -> str:
        # cast before transpose: NVIDIA's parser refuses Transpose on uint8
        numbers = self.op("Cast", [frame], prefix + "numbers", to=TensorProto.FLOAT)
        planes = self.op("Transpose", [numbers], prefix + "planes", perm=[0, 3, 1, 2])
        return self.op(
            "Div", [planes, self.constant("255", np.asarray(255, np.float32))], prefix + "scaled"
        )

    def _old_map(self, prefix: str, starts: str, zero: str, map_in: str) -> str:
        axes = self.constant("axes_2_3", np.array([2, 3], np.int64))
        starts_map = self.op("Unsqueeze", [starts, axes], prefix + "starts_map")
        if self._int8:
            map_in = self.op("DequantizeLinear", self._scales(map_in), prefix + "map_in")
        return self.op("Where", [starts_map, zero, map_in], prefix + "old_map")

    def _this_map(self, prefix: str, scaled: str) -> tuple[str, str]:
        """The map as the state keeps it, and as float."""
        if self._fp16:
            scaled = self.op("Cast", [scaled], prefix + "map_half", to=TensorProto.FLOAT16)
        pool = self.op(
            "AveragePool",
            [scaled],
            prefix + "map",
            kernel_shape=self._pool_px,
            strides=self._pool_px,
        )
        if self._fp16:
            pool = self.op("Cast", [pool], prefix + "map_wide", to=TensorProto.FLOAT)
        if not self._int8:
            return pool, pool
        stored = self.op("QuantizeLinear", self._scales(pool), prefix + "map_int8")
        return stored, self.op("DequantizeLinear", self._scales(stored), prefix + "map_rounded")

    def _scales(self, name: str) -> list[str]:
        scale = self.constant("map_scale", np.asarray(MAP_SCALE, np.float32))
        return [name, scale, self.constant("map_zero_point", np.zeros((), np.int8))]
