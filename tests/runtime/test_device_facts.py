"""Facts of a Jetson, a card and a plain computer, from files and outputs as those give them."""

from __future__ import annotations

import platform
import re

import pytest

from runtime.device_facts import device_facts, device_state, output_of, power_mode

RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
)
NVPMODEL_CONF = (
    "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
)
SMI = {
    "name": "NVIDIA L4, 550.54.15, 72.00",
    "clocks.sm": "2040, 2040, 6251, 47, 31.62, P0",
}


def nothing(command):
    return ""


def smi(command):
    if command[0] != "nvidia-smi":
        return ""
    first = command[1].removeprefix("--query-gpu=").split(",")[0]
    return SMI[first] + "\nNVIDIA L4, of, another\n"


def write(root, **texts):
    for path, text in texts.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def jetson(tmp_path):
    gpu = "sys/class/devfreq/17000000.gpu"
    cpu = "sys/devices/system/cpu/cpu0/cpufreq"
    texts = {
        "etc/nv_tegra_release": RELEASE,
        "etc/nvpmodel.conf": NVPMODEL_CONF,
        "var/lib/nvpmodel/status": "pmode:0002",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Kit\0",
        "proc/meminfo": "MemTotal:        7802292 kB\nMemFree: 1 kB\n",
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
        "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
        f"{gpu}/cur_freq": "306000000\n",
        f"{gpu}/min_freq": "306000000\n",
        f"{gpu}/max_freq": "1020000000\n",
        f"{cpu}/scaling_cur_freq": "729600\n",
        f"{cpu}/scaling_max_freq": "1728000\n",
        f"{cpu}/scaling_governor": "schedutil\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "47062\n",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # its temp: try again
        "sys/class/thermal/thermal_zone3/type": "soc0-thermal\n",
        "sys/class/thermal/thermal_zone3/temp": "-256000\n",  # off
        "sys/class/hwmon/hwmon0/name": "tmp451\n",
        "sys/class/hwmon/hwmon0/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon3/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon3/in1_input": "5072\n",
        "sys/class/hwmon/hwmon3/curr1_input": "1016\n",
        "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
        "sys/class/hwmon/hwmon3/in2_input": "5064\n",
        "sys/class/hwmon/hwmon3/curr2_input": "312\n",
    }
    write(tmp_path, **texts)
    return tmp_path


def test_a_jetson(jetson):
    facts = device_facts(jetson, nothing)
    expected = {
        "board": "NVIDIA Jetson Orin Nano Engineering Reference Kit",
        "l4t": "R36.4.3",
        "power_mode": "MAXN_SUPER",
        "cuda_toolkit": "12.6.11",
        "memory_gb": 7.8,
        "python": platform.python_version(),
    }
    assert expected.items() <= facts.items()
    assert device_state(jetson, nothing) == {
        "gpu_clock_mhz": 306,
        "gpu_max_mhz": 1020,
        "gpu_clock_locked": False,
        "cpu_clock_mhz": 730,
        "cpu_max_mhz": 1728,
        "cpu_governor": "schedutil",
        "cpu_c": 48.5,
        "gpu_c": 47.062,
        "power_w": 5.15,
    }


def test_rails_that_are_not_the_boards_are_no_power(jetson):
    # AGX Orin measures parts only; their sum is not what the board draws
    (jetson / "sys/class/hwmon/hwmon3/in1_label").write_text("VDD_GPU_SOC\n")
    assert "power_w" not in device_state(jetson, nothing)
    (jetson / "sys/class/hwmon/hwmon3/in1_label").write_text("VDD_IN\n")
    (jetson / "sys/class/hwmon/hwmon3/curr1_input").unlink()
    assert "power_w" not in device_state(jetson, nothing)


def test_the_power_mode(jetson):
    def nvpmodel(command):
        return "NV Power Mode: 25W\n1\n" if command == ["nvpmodel", "-q"] else ""

    assert device_facts(jetson, nvpmodel)["power_mode"] == "25W"
    assert power_mode(jetson) == "MAXN_SUPER"  # without asking any program
    (jetson / "etc/nvpmodel.conf").unlink()
    assert device_facts(jetson, nothing)["power_mode"] == "mode 2"
    (jetson / "var/lib/nvpmodel/status").unlink()
    assert "power_mode" not in device_facts(jetson, nothing)


@pytest.mark.parametrize("name", ["17000000.ga10b", "gpu-gpc-0"])
def test_other_jetsons_gpus(tmp_path, name):
    folder = f"sys/class/devfreq/{name}"
    write(tmp_path, **{f"{folder}/{key}_freq": "1575000000" for key in ("cur", "min", "max")})
    assert device_state(tmp_path, nothing) == {
        "gpu_clock_mhz": 1575,
        "gpu_max_mhz": 1575,
        "gpu_clock_locked": True,
    }


def test_a_card(tmp_path):
    facts = device_facts(tmp_path, smi)
    assert facts["gpu"] == "NVIDIA L4"
    assert facts["gpu_driver"] == "550.54.15"
    assert facts["power_limit_w"] == 72.0
    assert device_state(tmp_path, smi) == {
        "gpu_clock_mhz": 2040.0,
        "gpu_max_mhz": 2040.0,
        "memory_clock_mhz": 6251.0,
        "gpu_c": 47.0,
        "power_w": 31.62,
        "performance_state": "P0",
    }


def test_what_a_card_does_not_say_is_left_out(tmp_path):
    def silent(command):
        return "NVIDIA X, 550.54.15, [N/A]\n" if "name" in command[1] else "broken"

    facts = device_facts(tmp_path, silent)
    assert facts["gpu"] == "NVIDIA X"
    assert "power_limit_w" not in facts
    assert device_state(tmp_path, silent) == {}


def test_on_a_jetson_nvidia_smi_is_not_asked(jetson):
    def smi_is_no_help(command):
        assert command[0] != "nvidia-smi"
        return ""

    device_facts(jetson, smi_is_no_help)
    device_state(jetson, smi_is_no_help)


def test_this_machine_gives_away_no_names_or_paths():
    texts = [str(value) for value in (device_facts() | device_state()).values()]
    assert device_facts()["numpy"]
    assert not [text for text in texts if platform.node() in text or re.search(r"/\w+/", text)]


def test_commands_that_fail_say_nothing():
    assert output_of(["no-such-command-here"]) == ""
    assert output_of(["false"]) == ""
    assert output_of(["echo", "yes"]) == "yes\n"
