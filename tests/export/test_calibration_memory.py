"""A ResNet-50 at 224 x 224 calibrates in bounded memory, however many clips there are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from export.to_int8 import observed_from_step
from export.to_onnx import step_onnx_from_model
from runtime.preprocess import PictureRule
from tests.videos import drifting_pattern, write_video
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 8
FPS = 25

CHILD = """
import json, resource, sys
from pathlib import Path
from calib.clip_list import CalibrationClip
from calib.record import record
from runtime.bundle import StateSpec
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
folder, num_clips = Path(sys.argv[1]), int(sys.argv[2])
states = [
    StateSpec(each["name_in"], each["name_out"], tuple(each["shape"]), each["dtype"])
    for each in json.loads((folder / "states.json").read_text())
]
clips = [
    CalibrationClip(str(folder / "v.mp4"), 0.3 * i, 0.3 * i + 1.95, "x", 25)
    for i in range(num_clips)
]
rss = []

def advance(_):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss.append(pages * resource.getpagesize())

found = record(
    folder / "observed.onnx", states, clips, PictureRule(height_px=224, width_px=224),
    SamplingContract(num_segments=8, window_s=2.0, consensus_len=8), advance=advance,
)
# not ru_maxrss, which a process has from its parent
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"rss": rss, "peak": peak, "steps": found.num_steps,
                  "tensors": len(found.histograms)}))
"""


@pytest.mark.soak  # about a minute: a ResNet-50 step and its 71 histograms take 0.8 s on one core
def test_resnet50_at_224_in_bounded_memory(tmp_path):
    torch.manual_seed(0)
    unit = UnitConfig(temporal="tsm", pem=True)
    model = Tdrl(ModelConfig(backbone="resnet50", num_classes=174, unit=unit)).eval()
    rule = PictureRule(height_px=224, width_px=224)
    states = step_onnx_from_model(model, rule, tmp_path / "step.onnx")
    observed_from_step(tmp_path / "step.onnx", states, tmp_path / "observed.onnx")
    (tmp_path / "states.json").write_text(json.dumps([asdict(state) for state in states]))
    write_video(tmp_path / "v.mp4", drifting_pattern(250, 240, 426), fps=FPS, front_header=True)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(NUM_CLIPS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["steps"] == 8 * NUM_CLIPS
    assert found["tensors"] > 50
    assert found["peak"] < 1e9  # 2 GB are allowed
    # 500 clips of this slope would still be within them
    slope = (found["rss"][-1] - found["rss"][2]) / (NUM_CLIPS - 3)
    assert slope < 1e6, found
