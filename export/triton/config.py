"""The `config.pbtxt` of a step graph: states that the server carries from frame to frame.

Triton calls it implicit state: for each sequence (a camera) the server keeps what the graph gives
as `state_out_00` and feeds it as `state_in_00` of the sequence's next request. The START control is
the graph's own input `reset`. Sizes in the file leave out the batch axis.
Sources: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/architecture.md
and common/protobuf/model_config.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.bundle import (
    FRAME_INPUT,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    GraphKind,
    StateDtype,
    StateSpec,
)
from runtime.errors import ExportError

LABELS_FILE = "labels.txt"
TRITON_TYPES: Mapping[StateDtype, str] = {"float32": "TYPE_FP32", "int8": "TYPE_INT8"}
LEAST_IDLE_S = 5.0
IDLE_SPACINGS = 4


@dataclass(frozen=True)
class Served:
    """How a model file is served.

    Attributes:
        platform: Triton's name of the file's kind.
        file: File name in the version's folder.
        max_batch_size: Rows N of a batch at most.
    """

    platform: str
    file: str
    max_batch_size: int


def onnx_served(sequences: int) -> Served:
    """An ONNX file with an open number of rows."""
    return Served("onnxruntime_onnx", "model.onnx", sequences)


PLAN_SERVED = Served("tensorrt_plan", "model.plan", 1)


def model_name(bundle: Bundle) -> str:
    """The model's name on the server, and its folder's: letters, digits, `_`, `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", bundle.name) + "_step"


def idle_us(bundle: Bundle) -> int:
    """Microseconds without a frame after which the server forgets a camera."""
    return round(1e6 * max(LEAST_IDLE_S, IDLE_SPACINGS * bundle.sampling.spacing_s))


def config_text(bundle: Bundle, kind: GraphKind, served: Served, sequences: int) -> str:
    """The text of `config.pbtxt`.

    Args:
        bundle: The bundle.
        kind: Which of its step graphs.
        served: How the file is served.
        sequences: Sequences that the server keeps at once.

    Raises:
        BundleError: The bundle has no such graph.
        ExportError: The states' names do not sort as they pair, or a type that Triton lacks.
    """
    states = bundle.graph(kind).states
    require_sorted(states)
    rule = bundle.picture
    frame_dims = _dims((rule.height_px, rule.width_px, 3))
    return f"""\
name: "{model_name(bundle)}"
platform: "{served.platform}"
max_batch_size: {served.max_batch_size}
input {{ name: "{FRAME_INPUT}" data_type: TYPE_UINT8 dims: {frame_dims} }}
output {{
  name: "{LOGITS_OUTPUT}"
  data_type: TYPE_FP32
  dims: {_dims((len(bundle.labels),))}
  label_filename: "{LABELS_FILE}"
}}
sequence_batching {{
  max_sequence_idle_microseconds: {idle_us(bundle)}
  oldest {{ max_candidate_sequences: {sequences} }}
  control_input {{
    name: "{RESET_INPUT}"
    control {{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }}
  }}
{"".join(_state_text(state) for state in states)}}}
instance_group {{ count: 1 kind: KIND_AUTO }}
"""


def labels_text(bundle: Bundle) -> str:
    """The labels, one a line, in the order of the logits."""
    return "".join(" ".join(label.split()) + "\n" for label in bundle.labels)


def require_sorted(states: Sequence[StateSpec]) -> None:
    """Refuse states that a server would mix up: it pairs sorted inputs with sorted outputs.

    Source: https://github.com/triton-inference-server/server/issues/8586.

    Raises:
        ExportError: A name is out of order.
    """
    for names in ([s.name_in for s in states], [s.name_out for s in states]):
        if names != sorted(set(names)):
            raise ExportError(
                f"state names must be unique and sorted, or a server mixes states up: {names}; "
                "export the bundle again"
            )


def _state_text(state: StateSpec) -> str:
    if state.dtype not in TRITON_TYPES:
        raise ExportError(
            f"state {state.name_in} is {state.dtype}, states can be "
            f"{' or '.join(TRITON_TYPES)}; export the bundle again"
        )
    dtype, dims = TRITON_TYPES[state.dtype], _dims(state.shape[1:])
    # without an initial state a sequence starts with whatever lies in the server's memory
    return f"""\
  state {{
    input_name: "{state.name_in}"
    output_name: "{state.name_out}"
    data_type: {dtype}
    dims: {dims}
    initial_state {{ name: "zero" data_type: {dtype} dims: {dims} zero_data: true }}
  }}
"""


def _dims(sizes: Sequence[int]) -> str:
    return f"[ {', '.join(str(size) for size in sizes)} ]"
