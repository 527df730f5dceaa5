"""What the tables run: backbones with random weights, as bundles, clip graphs and PyTorch models.

Cost does not depend on weights. Each is made once, when a table first asks for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.bench.effort import Case
from export.bundle_folder import write_manifest
from export.golden import camera_frames, golden_frames, write_golden
from export.int8.quantise import steps_of
from export.session_cost import backbone_bundle, wandering_pictures
from export.step_ratios import random_model
from export.to_onnx import clip_onnx_from_model
from runtime.bundle import GOLDEN, MANIFEST, Bundle, Precision
from runtime.files import write_json
from runtime.preprocess import PictureRule
from runtime.sessions.base import StepSession
from runtime.sessions.choose import Backend, SessionChoice, open_chosen
from runtime.sessions.ov import has_openvino
from train.model.tdrl import Tdrl
from train.model.unit import UnitConfig

Part: TypeAlias = Literal["none", "PEM", "TM", "both"]

UNITS: dict[Part, UnitConfig] = {
    "none": UnitConfig(temporal="none", pem=False),
    "PEM": UnitConfig(temporal="none"),
    "TM": UnitConfig(pem=False),
    "both": UnitConfig(),
}
NOT_YET = "0" * 64  # the hash of golden frames that few tables need
SEGMENTS = 8
WINDOW_S = 2.0


class Models:
    """Makes what tables ask for, once.

    Args:
        folder: Where graphs go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bundles: dict[tuple[Case, Part], Bundle] = {}
        self._clips: dict[tuple[Case, int], Path] = {}

    def bundle(self, case: Case, part: Part = "both") -> Bundle:
        """Step graphs, float and INT8, in a folder of their own that `load_bundle` reads."""
        if (case, part) not in self._bundles:
            self._bundles[case, part] = self._made_bundle(case, part)
        return self._bundles[case, part]

    def clip(self, case: Case, segments: int) -> Path:
        """A float clip graph."""
        if (case, segments) not in self._clips:
            self._clips[case, segments] = self._made_clip(case, segments)
        return self._clips[case, segments]

    def whole_bundle(self, case: Case) -> Bundle:
        """The same with golden frames, as `runtime/stream.py` wants it."""
        bundle = self.bundle(case)
        path = bundle.folder / GOLDEN
        if not path.exists():
            pictures = list(wandering_pictures(bundle.picture))
            frames, reset = golden_frames(pictures)
            int8_logits = steps_of(bundle, frames, reset, int8=bundle.graph("step_int8"))
            logits, cameras = steps_of(bundle, frames, reset), camera_frames(pictures)
            write_golden(path, frames, reset, logits, int8_logits, cameras, bundle.picture)
            write_manifest(bundle)
        return bundle

    def _made_bundle(self, case: Case, part: Part) -> Bundle:
        folder = self._folder / f"{case[0]}-{case[1]}-{part}"
        folder.mkdir()
        made = backbone_bundle(*case, folder, UNITS[part])
        bundle = replace(made, sha256={**made.sha256, GOLDEN: NOT_YET})
        write_json(folder / MANIFEST, bundle.to_json())
        return bundle

    def _made_clip(self, case: Case, segments: int) -> Path:
        backbone, size_px = case
        path = self._folder / f"{backbone}-{size_px}.clip{segments}.onnx"
        rule = PictureRule(height_px=size_px, width_px=size_px)
        clip_onnx_from_model(torch_model(case), rule, segments, path)
        return path


def torch_model(case: Case) -> Tdrl:
    """TDRL in PyTorch."""
    return random_model(case[0], UNITS["both"])


def name_of(case: Case) -> str:
    """`resnet18 at 224`."""
    return f"{case[0]} at {case[1]}"


def fast_choice() -> SessionChoice:
    """What the runtime takes on a CPU: OpenVINO in INT8, else ONNX Runtime in float32."""
    if has_openvino():
        return choice_of("openvino", "int8")
    return choice_of("ort", "float32")


def choice_of(backend: Backend, precision: Precision) -> SessionChoice:
    """An engine in a precision."""
    return SessionChoice(backend, precision, "measured")


def one_thread_session(
    bundle: Bundle, choice: SessionChoice, *, phases: int = 1, num_streams: int = 1
) -> StepSession:
    """The runtime's own session on one thread."""
    return open_chosen(bundle, choice, phases, num_streams=num_streams, threads=1)


def noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Pictures of noise, uint8."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class StepCall:
    """A call that runs a session's next step, phase after phase, each from its own states.

    Args:
        session: The session.
        size_px: Height and width of its picture.
    """

    def __init__(self, session: StepSession, size_px: int) -> None:
        self._session = session
        self._frames = noise((session.num_streams, size_px, size_px, 3))
        self._go_on = np.zeros((session.num_streams, 1), np.float32)
        self._count = 0

    def __call__(self) -> object:
        """Run it."""
        self._count += 1
        return self._session.step(self._count % self._session.num_phases, self._frames, self._go_on)
