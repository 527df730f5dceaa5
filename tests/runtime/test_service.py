"""The service's files: the unit as systemd reads it, a dry run of the installer, the images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from runtime.sources.live import ReconnectRule
from runtime.stream import build_parser

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "runtime" / "service"
UNIT = "etc/systemd/system/tdrl-edge.service"
SETTINGS = "etc/tdrl-edge/tdrl-edge.env"
DOCKERFILES = ("Dockerfile.jetson", "Dockerfile.cpu")


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    return folder


def service(action, bundle, root, **variables):
    environment = {
        "PATH": os.environ["PATH"],
        "SERVICE_PYTHON": sys.executable,
        "SERVICE_BUNDLE": str(bundle),
        "DESTDIR": str(root),
    }
    return subprocess.run(
        ["bash", str(SERVICE / "service.sh"), action],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def installed(tmp_path, bundle):
    done = service("install", bundle, tmp_path / "root")
    assert done.returncode == 0, done.stderr
    return tmp_path / "root"


def parsed(unit):
    """Sections and keys; a key that stands twice keeps both values, line by line."""
    values: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            values.setdefault(section, {}).setdefault(key, []).append(value)
    return values


def test_the_unit_is_filled_in_and_kept_in_order(installed, bundle):
    text = (installed / UNIT).read_text()
    assert not re.search(r"@\w+@", text)
    unit = parsed(installed / UNIT)
    run = unit["Service"]["ExecStart"][0].split()
    assert run[:2] == [sys.executable, str(ROOT / "runtime/stream.py")]
    assert run[-1] == "$TDRL_ARGS"
    options = build_parser().parse_args(run[2:-1])  # every option is one that the command has
    assert options.bundle == bundle
    assert options.wait_for_source
    assert options.headless
    assert options.sources == ["TDRL_SOURCE"]
    assert options.events is None  # nothing is stored by default
    assert unit["Service"]["SupplementaryGroups"][0].split()[0] == "video"
    expected = {"Type": ["notify"], "Restart": ["always"], "User": ["tdrl"], "LimitCORE": ["0"]}
    assert expected.items() <= unit["Service"].items()
    # longer than the longest silence of a source that is away, which is healthy
    assert int(unit["Service"]["WatchdogSec"][0]) >= ReconnectRule().refused_wait_s + 30
    # ten quick failures have to fit into the interval, or the limit never acts
    restarts = int(unit["Unit"]["StartLimitBurst"][0]) * int(unit["Service"]["RestartSec"][0])
    assert restarts < int(unit["Unit"]["StartLimitIntervalSec"][0])


def test_the_unit_leaves_camera_gpu_and_cache_usable(installed):
    keys = parsed(installed / UNIT)["Service"]
    shut = {"PrivateDevices", "ProtectClock", "PrivateTmp", "MemoryDenyWriteExecute", "ProcSubset"}
    assert not shut & keys.keys()
    assert not {"DeviceAllow", "DevicePolicy", "IPAddressDeny"} & keys.keys()
    engine_dir = re.search(r"--engine-dir /var/cache/(\S+)/engines", keys["ExecStart"][0])
    assert engine_dir is not None
    assert keys["CacheDirectory"] == [engine_dir[1]]
    assert "AF_UNIX" in keys["RestrictAddressFamilies"][0]  # sd_notify and the CSI cameras' socket


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_accepts_the_unit(installed, tmp_path):
    def verify(unit):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    assert verify(installed / UNIT) == ""
    wrong = tmp_path / "tdrl-edge.service"
    text = (installed / UNIT).read_text()
    wrong.write_text(text.replace("WatchdogSec=120", "WatchdogSec=often\nWatchdogs=1"))
    assert "Failed to parse sec value" in verify(wrong)
    assert "Unknown key 'Watchdogs'" in verify(wrong)


# What we use, all known to systemd 249 (JetPack 6's Ubuntu 22.04); for where no systemd is at hand.
KNOWN_KEYS = {
    "Unit": {
        "Description", "Documentation", "Wants", "After", "StartLimitIntervalSec",
        "StartLimitBurst",
    },
    "Service": {
        "Type", "NotifyAccess", "User", "SupplementaryGroups", "WorkingDirectory",
        "EnvironmentFile", "Environment", "ExecStart", "SuccessExitStatus", "Restart", "RestartSec",
        "TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "WatchdogSec", "LimitCORE",
        "StandardOutput", "StandardError", "SyslogIdentifier", "CacheDirectory",
        "CacheDirectoryMode", "StateDirectory", "StateDirectoryMode", "UMask", "ProtectSystem",
        "ProtectHome", "NoNewPrivileges", "CapabilityBoundingSet", "RestrictSUIDSGID",
        "RestrictNamespaces", "RestrictRealtime", "RestrictAddressFamilies", "LockPersonality",
        "SystemCallArchitectures", "ProtectKernelTunables", "ProtectKernelModules",
        "ProtectKernelLogs", "ProtectControlGroups", "ProtectHostname", "KeyringMode",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
MAY_REPEAT = {"Environment"}


def test_the_unit_has_known_keys_once(installed):
    unit = parsed(installed / UNIT)
    assert unit.keys() == KNOWN_KEYS.keys()
    for section, keys in unit.items():
        assert not keys.keys() - KNOWN_KEYS[section]
        assert not [
            key for key, all_of in keys.items() if len(all_of) > 1 and key not in MAY_REPEAT
        ]


def test_installing_again_keeps_the_users_settings(installed, bundle):
    settings = installed / SETTINGS
    assert settings.stat().st_mode & 0o777 == 0o600
    assert (installed / UNIT).stat().st_mode & 0o777 == 0o644
    settings.write_text("TDRL_SOURCE='rtsp://me:secret@cam/1'\n")
    again = service("install", bundle, installed)
    assert again.returncode == 0
    assert "is up to date" in again.stdout
    assert "kept your" in again.stdout
    assert "secret" in settings.read_text()
    changed = service("install", bundle, installed, SERVICE_USER="jetson")
    assert f"wrote {installed}/{UNIT}" in changed.stdout
    assert parsed(installed / UNIT)["Service"]["User"] == ["jetson"]
    assert [path.name for path in (installed / UNIT).parent.iterdir()] == ["tdrl-edge.service"]


def test_uninstalling_keeps_what_is_the_users(installed, bundle):
    (installed / "var/lib/tdrl-edge").mkdir(parents=True)
    done = service("uninstall", bundle, installed)
    assert done.returncode == 0, done.stderr
    assert not (installed / UNIT).exists()
    assert (installed / SETTINGS).exists()
    assert f"kept {installed}/var/lib/tdrl-edge (PURGE=1 removes it)" in done.stdout
    again = service("uninstall", bundle, installed, PURGE="1")
    assert again.returncode == 0, again.stderr
    assert "no " in again.stdout
    assert not (installed / "etc/tdrl-edge").exists()
    assert not (installed / "var/lib/tdrl-edge").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SERVICE_BUNDLE": "/no/bundle"}, "no bundle at /no/bundle"),
        ({"SERVICE_BUNDLE": "artifacts/x"}, "SERVICE_BUNDLE must be an absolute path"),
        ({"SERVICE_BUNDLE": "/a b|c"}, r"SERVICE_BUNDLE may hold letters, digits"),
        ({"SERVICE_PYTHON": "/no/python"}, "no Python at /no/python"),
        ({"SERVICE_USER": "root"}, "SERVICE_USER must not be root"),
        ({"SERVICE_USER": "a;b"}, "SERVICE_USER is no user name"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(bundle, tmp_path, variables, message):
    done = service("install", bundle, tmp_path / "root", **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(f"error: {message}.*\n", done.stderr)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_without_root_the_system_is_not_touched(bundle, tmp_path, action):
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    done = service(action, bundle, "", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: the system's files are root's: use sudo")


def test_the_settings_file_is_what_systemd_and_the_command_read(installed):
    text = (installed / SETTINGS).read_text()
    set_lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert set_lines == ["TDRL_SOURCE='0'", "TDRL_ARGS=''"]
    example = re.search(r"TDRL_ARGS='(--\S.*)'", text)
    assert example is not None
    options = build_parser().parse_args(["--source", "0", *example[1].split()])
    assert str(options.events).startswith("/var/lib/tdrl-edge/")


def instructions(name):
    text = re.sub(r"\\\n", " ", (SERVICE / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split(None, 1) for line in lines]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_copies_what_exists_and_is_not_ignored(name):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    sources = [
        source
        for word, rest in instructions(name)
        if word == "COPY"
        for source in rest.split()[:-1]
    ]
    assert "runtime" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept, source


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_images_versions_are_pinned_and_the_projects(name):
    text = (SERVICE / name).read_text()
    assert "NOT BUILT BY US" in text
    base = instructions(name)[0]
    assert base[0] == "FROM"
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base[1])
    pins = dict(re.findall(r"([\w-]+)==([\w.]+)", text))
    assert {"numpy", "opencv-python", "starlette", "uvicorn"} < pins.keys()  # --web works
    bounds = project_bounds()
    for package, version in pins.items():
        assert Version(version) in bounds[package].specifier, package
    if name == "Dockerfile.cpu":
        constraints = (ROOT / "constraints.txt").read_text()
        for package, version in pins.items():
            assert f"\n{package}=={version} " in constraints


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_starts_the_command_without_rights(name):
    words = dict(instructions(name))
    assert words["USER"] == "tdrl"
    entry = re.findall(r'"([^"]*)"', words["ENTRYPOINT"])
    assert entry[:2] == ["python3", "runtime/stream.py"]
    options = build_parser().parse_args(entry[2:])
    assert options.wait_for_source
    assert options.backend == "auto"  # what was installed for speed is used


def project_bounds():
    """The requirements that a device has; Python 3.10 has no tomllib."""
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(
        r"^(?:dependencies|cpu|openvino|jetson|web) = \[(.*)\]$", project, re.MULTILINE
    )
    requirements = [Requirement(text) for each in lists for text in re.findall(r'"([^"]+)"', each)]
    return {requirement.name: requirement for requirement in requirements}


def test_make_knows_both_targets():
    makefile = (ROOT / "Makefile").read_text()
    for action in ("install", "uninstall"):
        assert f"{action}-service:" in makefile
        assert f"runtime/service/service.sh {action}" in makefile


def test_the_pages_name_only_what_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in ("docs/jetson.md", "docs/privacy.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"(?:^|[`\s])make ([a-z][a-z-]+)", text):
            assert f"\n{target}:" in makefile, f"{page}: make {target}"
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / "docs" / link).exists(), f"{page}: {link}"
        for options in re.findall(r"runtime/stream\.py (.+)$", text, re.MULTILINE):
            known = build_parser().format_help()
            for option in re.findall(r"--[a-z-]+", options):
                assert option in known, f"{page}: {option}"


def test_every_output_is_on_the_privacy_page():
    page = (ROOT / "docs/privacy.md").read_text()
    groups = [group for group in build_parser()._action_groups if group.title == "output"]
    outputs = [name for action in groups[0]._group_actions for name in action.option_strings]
    assert "--events" in outputs
    assert [name for name in outputs if name not in page] == []
