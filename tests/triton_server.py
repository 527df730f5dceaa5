"""A real Triton server on the CPU, with a stand-in for its onnxruntime backend.

The server comes from the wheel of nvidia-pytriton, of which nothing is installed: `make test-all`
unpacks it. It has no onnxruntime backend, so `triton_backend.c` hands each batch to this process,
which runs the repository's model file in ONNX Runtime. Scheduling, correlation ids, controls,
initial and implicit states are the server's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv" / "triton"  # `make test-all` makes it (see the Makefile)
SERVER = HOME / "pytriton" / "tritonserver"
# tritonserver.h's numbers
TYPES: Mapping[int, Any] = {2: np.uint8, 6: np.int8, 11: np.float32}
NUMBERS = {np.dtype(dtype): number for number, dtype in TYPES.items()}
START_S = 20.0
Tensors = dict[str, NDArray[Any]]


def require_server() -> None:
    """Skip the test where there is no server, or no compiler for the stand-in."""
    if not (SERVER / "bin" / "tritonserver").is_file():
        pytest.skip(f"no Triton server in {HOME.relative_to(ROOT)}; make test-all unpacks it")
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: Triton's stand-in backend cannot be compiled")


def parse(repository: Path) -> str:
    """What the server logs about a repository that it has no backend for; it ends by itself."""
    command = [*_command(repository, SERVER / "backends"), "--allow-http=false"]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


class StandIn:
    """What runs the batches that the server makes.

    Attributes:
        batches: Inputs of every batch, rows joined as a backend joins them.
        pause_s: Seconds that a batch takes longer; requests gather meanwhile.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        (model,) = repository.glob("*/1/model.onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self._listener = socket.socket(socket.AF_UNIX)
        self.path = folder / "backend.socket"
        self._listener.bind(str(self.path))
        self._listener.listen()
        self.batches: list[Tensors] = []
        self.pause_s = 0.0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:  # closed before a server came
            return
        with peer, peer.makefile("rwb") as stream:
            while head := stream.read(4):
                requests = [_read_tensors(stream) for _ in range(*struct.unpack("=I", head))]
                joined = {
                    name: np.concatenate([request[name] for request in requests])
                    for name in requests[0]
                }
                self.batches.append(joined)
                time.sleep(self.pause_s)
                outputs = dict(
                    zip(self._names, self._session.run(self._names, joined), strict=True)
                )
                for row in range(len(requests)):
                    _write_tensors(
                        stream, {name: value[row : row + 1] for name, value in outputs.items()}
                    )
                stream.flush()


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[tuple[str, StandIn]]:
    """A server of a repository: its address, `http://127.0.0.1:PORT`, and its stand-in backend."""
    backends = folder / "backends" / "onnxruntime"
    backends.mkdir(parents=True)
    library = backends / "libtriton_onnxruntime.so"
    source = ROOT / "tests" / "triton_backend.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source)], check=True)
    stand_in = StandIn(repository, folder)
    port = _free_port()
    command = [
        *_command(repository, backends.parent),
        "--http-address=127.0.0.1",
        f"--http-port={port}",
    ]
    log = folder / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            env=_environment(TDRL_BACKEND_SOCKET=str(stand_in.path)),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}", stand_in
    finally:
        server.kill()  # it would wait until every camera is forgotten
        server.wait(30)
        stand_in.close()


def _command(repository: Path, backends: Path) -> list[str]:
    return [
        str(SERVER / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(HOME / "nvidia_pytriton.libs"), **more}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no server:\n{log.read_text()}")


def _read_tensors(stream: Any) -> Tensors:
    tensors = {}
    for _ in range(_number(stream)):
        name = stream.read(_number(stream)).decode()
        dtype, axes = TYPES[_number(stream)], _number(stream)
        shape = struct.unpack(f"={axes}q", stream.read(8 * axes))
        (num_bytes,) = struct.unpack("=Q", stream.read(8))
        tensors[name] = np.frombuffer(stream.read(num_bytes), dtype).reshape(shape)
    return tensors


def _write_tensors(stream: Any, tensors: Tensors) -> None:
    stream.write(struct.pack("=I", len(tensors)))
    for name, value in tensors.items():
        stream.write(struct.pack("=I", len(name)) + name.encode())
        stream.write(struct.pack("=II", NUMBERS[value.dtype], value.ndim))
        stream.write(struct.pack(f"={value.ndim}q", *value.shape))
        stream.write(struct.pack("=Q", value.nbytes) + np.ascontiguousarray(value).tobytes())


def _number(stream: Any) -> int:
    return int(struct.unpack("=I", stream.read(4))[0])
