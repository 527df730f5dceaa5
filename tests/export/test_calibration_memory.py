"""A ResNet-50 at 224 x 224 calibrates in bounded memory, however many clips there are.

`TDRL_CALIBRATION_CLIPS=500 make soak ARGS=tests/export/test_calibration_memory.py` takes half an
hour.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from export.to_int8 import observed_from_step
from export.to_onnx import step_onnx_from_model
from runtime.command import say
from runtime.preprocess import PictureRule
from tests.videos import drifting_pattern, write_video
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = int(os.environ.get("TDRL_CALIBRATION_CLIPS", "8"))
FIRST = 3  # clips after which nothing new is allocated
CLIPS_A_VIDEO = 26  # ten seconds, a clip of two begins every 0.3
FPS = 25

CHILD = """
import json, resource, sys
from pathlib import Path
from calib.clip_list import CalibrationClip
from calib.record import record
from runtime.bundle import StateSpec
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
folder, num_clips, clips_a_video = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
states = [
    StateSpec(each["name_in"], each["name_out"], tuple(each["shape"]), each["dtype"])
    for each in json.loads((folder / "states.json").read_text())
]
clips = [
    CalibrationClip(str(folder / f"{video}.mp4"), 0.3 * i, 0.3 * i + 1.95, "x", 25)
    for video, i in (divmod(number, clips_a_video) for number in range(num_clips))
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


def write_videos(folder):
    """As many as the clips need, each in other colours."""
    pictures = drifting_pattern(10 * FPS, 240, 426)
    for number in range(-(-NUM_CLIPS // CLIPS_A_VIDEO)):
        path = folder / f"{number}.mp4"
        write_video(path, pictures + np.uint8(11 * number), fps=FPS, front_header=True)


def cpu_s():
    """CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.soak  # half a minute: a ResNet-50 step and its 71 histograms take 0.3 s on one core
def test_resnet50_at_224_in_bounded_memory(tmp_path, capsys):
    torch.manual_seed(0)
    unit = UnitConfig(temporal="tsm", pem=True)
    model = Tdrl(ModelConfig(backbone="resnet50", num_classes=174, unit=unit)).eval()
    rule = PictureRule(height_px=224, width_px=224)
    states = step_onnx_from_model(model, rule, tmp_path / "step.onnx")
    observed_from_step(tmp_path / "step.onnx", states, tmp_path / "observed.onnx")
    (tmp_path / "states.json").write_text(json.dumps([asdict(state) for state in states]))
    write_videos(tmp_path)
    command = [sys.executable, "-c", CHILD, *map(str, (tmp_path, NUM_CLIPS, CLIPS_A_VIDEO))]
    began_s, cpu_before_s = time.monotonic(), cpu_s()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    took_s, took_cpu_s = time.monotonic() - began_s, cpu_s() - cpu_before_s
    found = json.loads(done.stdout)
    rss, peak = found["rss"], found["peak"]
    with capsys.disabled():
        say(f"\n{NUM_CLIPS} clips, {took_s / 60:.1f} min, {took_cpu_s / 60:.1f} of CPU time")
        after = {number: rss[number - 1] for number in (1, FIRST, NUM_CLIPS // 2, NUM_CLIPS)}
        mb = ", ".join(f"{each / 1e6:.0f} after {number}" for number, each in after.items())
        say(f"resident MB: {mb}; at most {peak / 1e6:.0f}")
    assert found["steps"] == 8 * NUM_CLIPS
    assert found["tensors"] > 50
    assert len(rss) == NUM_CLIPS
    assert peak < 1e9  # 2 GB are allowed
    # 500 clips of this slope would still be within them
    assert rss[-1] - rss[FIRST - 1] < 1e6 * (NUM_CLIPS - FIRST), found
