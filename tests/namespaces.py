"""A network, a host table and devices of a test's own, where this process may make them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def need_namespaces(*kinds: str) -> None:
    """Skip where new namespaces, such as --net or --mount, are not allowed."""
    try:
        done = subprocess.run(
            ["unshare", *kinds, "true"], capture_output=True, text=True, check=False
        )
    except OSError as err:
        pytest.skip(f"no unshare: {err}")
    if done.returncode != 0:
        pytest.skip(f"namespaces need root: {done.stderr.strip()}")


class Network:
    """A loopback device that only the test's own processes see."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", "--target", str(pid), "--net"]

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs in this network."""
        return [*self._enter, *arguments]

    def connect(self, *, is_up: bool) -> None:
        """Plug the cable in, or pull it."""
        state = "up" if is_up else "down"
        subprocess.run(self.command("ip", "link", "set", "lo", state), check=True)


@contextmanager
def own_network() -> Iterator[Network]:
    """A network that is up."""
    need_namespaces("--net")
    if shutil.which("ip") is None:
        pytest.skip("no ip command (iproute2)")
    script = "print(flush=True); input()"
    holder = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        network = Network(holder.pid)
        network.connect(is_up=True)
        yield network
    finally:
        holder.communicate("\n")


def with_host_table(hosts: Path, resolver: Path, command: Sequence[str]) -> list[str]:
    """A command line that takes host names from `hosts` and name servers from `resolver`."""
    script = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2'
    return [
        "unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh",
        str(hosts), str(resolver), *command,
    ]  # fmt: skip


def with_small_disk(folder: Path, size_bytes: int, command: Sequence[str]) -> list[str]:
    """A command line for which `folder` is a disk of its own; others see it by `disk_of`."""
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(size_bytes), str(folder), *command]


def disk_of(pid: int, folder: Path) -> Path:
    """A folder as another process sees it."""
    return Path(f"/proc/{pid}/root") / folder.relative_to("/")
