"""Published weight files: fetched once, whole or not at all, checked against their hash."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import torch
from tqdm import tqdm

from runtime.errors import CheckpointError
from runtime.files import CHUNK_BYTES, sha256_of, whole_file

TIMEOUT_S = 20.0
# PyTorch's convention: resnet18-f37072fd.pth begins its SHA-256 with f37072fd
HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def is_url(name: str) -> bool:
    """Whether `name` is to be fetched."""
    return name.startswith(("https://", "http://"))


def fetched(url: str) -> Path:
    """A file behind a URL, from PyTorch Hub's cache or put there now.

    A name that carries the file's hash is where torchvision looks for it too, and the hash is
    checked on every call. Any other name may mean another file tomorrow: it is kept by its URL.

    Args:
        url: http(s) address of a weight file.

    Raises:
        CheckpointError: Nothing usable came; the message says which file to put where.
    """
    name = Path(urlsplit(url).path).name
    if not name:
        raise CheckpointError(f"{url} names no file")
    match = HASH.search(name)
    start = match[1] if match else ""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / (name if match else f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}")
    if not path.is_file():
        _fetch(url, path, start)
    elif not sha256_of(path).startswith(start):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 does not begin with {start}; delete it"
        )
    return path


def _fetch(url: str, path: Path, start: str) -> None:
    try:
        with whole_file(path) as part:
            digest = _receive(url, part)
            if not digest.startswith(start):
                raise CheckpointError(
                    f"{url} sent another file than it names: "
                    f"its SHA-256 begins with {digest[:8]}, not {start[:8]}"
                )
    except (OSError, http.client.HTTPException) as err:
        if isinstance(err, urllib.error.HTTPError):
            err.close()  # it holds the connection
        reason = err.reason if isinstance(err, urllib.error.URLError) else err
        raise CheckpointError(
            f"{url} cannot be fetched: {reason}; without a network, put the file at {path}"
        ) from err


def _receive(url: str, part: Path) -> str:
    """Write what the URL sends; its SHA-256."""
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "tdrl-edge"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer,
        part.open("wb") as file,
    ):
        total = int(answer.headers["Content-Length"] or 0)
        bar = tqdm(total=total or None, desc=part.name, unit="B", unit_scale=True, disable=None)
        with bar:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if file.tell() < total:
            raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
    return digest.hexdigest()
