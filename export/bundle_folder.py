"""A bundle's folder changes as a whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runtime.bundle import MANIFEST, Bundle, with_own_hash
from runtime.errors import ExportError
from runtime.files import about, sha256_of, write_json

CLIPS = "clips.jsonl"  # the calibration clips, beside the bundle: these are paths of this machine


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place only if the body succeeds.

    Raises:
        ExportError: `out` holds something that is no bundle.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise ExportError(f"{out} exists and is no bundle; choose another --out or remove it")
    with whole_folder(out) as part:
        yield part


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that replaces it, whatever it holds, if the body succeeds.

    Of a link, what it points at is replaced; the link stays.

    Raises:
        OSError: The folder cannot be written.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    part, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():  # killed between the two renames
        old.rename(out)
    for stale in (part, old):
        shutil.rmtree(stale, ignore_errors=True)
    part.mkdir()
    try:
        with about(out):
            yield part
        if out.exists():
            out.rename(old)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not out.exists() and old.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def changed_bundle(bundle: Bundle) -> Iterator[Path]:
    """Give a copy of a finished bundle's folder; it takes the bundle's place if the body succeeds.

    Its files are hashed anew at the end.

    Args:
        bundle: A bundle that was loaded with its hashes checked: a changed file would be signed.

    Raises:
        OSError: The folder cannot be written.
    """
    with replaced_folder(bundle.folder) as folder:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
        yield folder
        write_manifest(replace(bundle, folder=folder))


def write_manifest(bundle: Bundle) -> None:
    """Write `bundle.json` with the hash of every file beside it, and its own.

    Last of all files: a folder without it is no bundle.
    """
    files = sorted(path for path in bundle.folder.iterdir() if path.name != MANIFEST)
    hashes = {file.name: sha256_of(file) for file in files}
    manifest = with_own_hash(replace(bundle, sha256=hashes).to_json())
    write_json(bundle.folder / MANIFEST, manifest)
