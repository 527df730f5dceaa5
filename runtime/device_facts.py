"""What a device is, and how it feels right now: GPU, power mode, clocks, temperatures, versions.

A latency means nothing without them: a Jetson in its 7 W mode is another machine than the same
board at 25 W, and clocks fall while nothing runs. Never host names or paths.

Where a Jetson says what: `/etc/nv_tegra_release` (L4T), `nvpmodel -q` or `/var/lib/nvpmodel/status`
with `/etc/nvpmodel.conf` (power mode), devfreq in sysfs (GPU clock), thermal zones, the power
monitor INA3221 in hwmon. All are read without root. On other NVIDIA cards `nvidia-smi` says it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import cv2

from runtime.machine import installed_versions, processor, system_name

Facts: TypeAlias = dict[str, str | int | float | bool]
RunCommand: TypeAlias = Callable[[Sequence[str]], str]

LIBRARIES = ("numpy", "onnxruntime", "pycuda")
SMI_NUMBERS = ("_mhz", "_c", "_w")
COMMAND_TIMEOUT_S = 10.0
# devfreq calls the GPU 17000000.gpu (JetPack 6), 17000000.ga10b (JetPack 5), gpu-gpc-0 (Thor)
GPU_NAMES = re.compile(r"gpu|ga10b|gv11b|gb10b")
# the rail that feeds the module: Orin Nano and NX, and older boards
BOARD_RAILS = ("VDD_IN", "POM_5V_IN")
SMI_FACTS = {
    "gpu": "name",
    "gpu_driver": "driver_version",
    "power_limit_w": "power.limit",
}
SMI_STATE = {
    "gpu_clock_mhz": "clocks.sm",
    "gpu_max_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "gpu_c": "temperature.gpu",
    "power_w": "power.draw",
    "performance_state": "pstate",
}


def output_of(command: Sequence[str]) -> str:
    """What a command prints; empty where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout


def no_output(command: Sequence[str]) -> str:
    """For facts without starting a program."""
    return ""


def power_mode(root: Path, run: RunCommand = no_output) -> str:
    """Name of the power mode, its number where only that is known; empty where there is none.

    Args:
        root: Where the system's files are.
        run: Gives a command's output; by default the files have to say it.
    """
    named = re.search(r"NV Power Mode:\s*(\S+)", run(["nvpmodel", "-q"]))
    if named:
        return named[1]
    status = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not status:
        return ""
    number = int(status[1])
    modes = _text(root / "etc/nvpmodel.conf")
    name = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=(\S+)", modes)
    return name[1] if name else f"mode {number}"


def device_facts(root: Path = Path("/"), run: RunCommand = output_of) -> Facts:
    """What this machine is; facts that it does not tell are left out.

    Args:
        root: Where the system's files are.
        run: Gives a command's output, empty where there is none.
    """
    l4t = _l4t(_text(root / "etc/nv_tegra_release"))
    facts: Facts = {
        # the device tree ends its strings with a zero byte
        "board": _text(root / "proc/device-tree/model").strip("\0"),
        "cpu": processor(),
        "cores": os.cpu_count() or 0,
        "memory_gb": _memory_gb(_text(root / "proc/meminfo")),
        "os": system_name(),
        "python": platform.python_version(),
        "l4t": l4t,
        "power_mode": power_mode(root, run),
        "cuda_driver": _cuda_driver(),
        "cuda_toolkit": _cuda_toolkit(_text(root / "usr/local/cuda/version.json")),
        "opencv": cv2.__version__,
        **installed_versions(LIBRARIES),
    }
    if not l4t:  # on a Jetson nvidia-smi knows next to nothing
        facts |= _smi(SMI_FACTS, run)
    return {name: value for name, value in facts.items() if value not in ("", 0)}


def device_state(root: Path = Path("/"), run: RunCommand = output_of) -> Facts:
    """Clocks, temperatures and power at this moment; what cannot be read is left out.

    Args:
        root: Where the system's files are.
        run: Gives a command's output, empty where there is none.
    """
    facts: Facts = {}
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if GPU_NAMES.search(folder.name):
            facts |= _gpu_clock(folder)
            break
    else:
        facts |= _smi(SMI_STATE, run)
    facts |= _cpu_clock(root / "sys/devices/system/cpu/cpu0/cpufreq")
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        # some zones of an Orin answer "try again" while their part is off
        name, milli = _text(zone / "type"), _number(zone / "temp")
        if name and milli is not None and milli > 0:
            facts[f"{name.removesuffix('-thermal').removesuffix('_thermal')}_c"] = milli / 1000
    return facts | _board_power(root / "sys/class/hwmon")


def _l4t(release: str) -> str:
    """`R36.4.3` from `# R36 (release), REVISION: 4.3, GCID: ...`."""
    found = re.match(r"# (R\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else ""


def _gpu_clock(folder: Path) -> Facts:
    hz = {key: _number(folder / f"{key}_freq") for key in ("cur", "min", "max")}
    facts: Facts = {}
    if hz["cur"] is not None:
        facts["gpu_clock_mhz"] = round(hz["cur"] / 1e6)
    if hz["max"] is not None:
        facts["gpu_max_mhz"] = round(hz["max"] / 1e6)
        # what jetson_clocks does
        facts["gpu_clock_locked"] = hz["min"] == hz["max"]
    return facts


def _board_power(hwmon: Path) -> Facts:
    """What the whole board draws, where one of its rails is measured and says so."""
    for folder in sorted(hwmon.glob("*")):
        if _text(folder / "name") != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            milliv, milliamp = (
                _number(folder / f"in{number}_input"),
                _number(folder / f"curr{number}_input"),
            )
            if _text(label) in BOARD_RAILS and milliv is not None and milliamp is not None:
                return {"power_w": round(milliv * milliamp / 1e6, 2)}
    return {}


def _cpu_clock(folder: Path) -> Facts:
    facts: Facts = {}
    for fact, file in (("cpu_clock_mhz", "scaling_cur_freq"), ("cpu_max_mhz", "scaling_max_freq")):
        khz = _number(folder / file)
        if khz is not None:
            facts[fact] = round(khz / 1e3)
    governor = _text(folder / "scaling_governor")
    return facts | ({"cpu_governor": governor} if governor else {})


def _smi(wanted: dict[str, str], run: RunCommand) -> Facts:
    """The first card's answers to a query of nvidia-smi."""
    query = f"--query-gpu={','.join(wanted.values())}"
    lines = run(["nvidia-smi", query, "--format=csv,noheader,nounits"]).splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if len(values) != len(wanted):
        return {}
    known = {name: v for name, v in zip(wanted, values, strict=True) if not v.startswith("[")}
    return {name: float(v) if name.endswith(SMI_NUMBERS) else v for name, v in known.items()}


def _cuda_driver() -> str:
    """Highest CUDA version that the driver serves, as `12.6`."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    version = ctypes.c_int(0)
    if cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cuda_toolkit(version_json: str) -> str:
    try:
        return str(json.loads(version_json)["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _memory_gb(meminfo: str) -> float:
    found = re.match(r"MemTotal:\s+(\d+) kB", meminfo)
    return round(int(found[1]) / 1e6, 1) if found else 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _text(path: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
