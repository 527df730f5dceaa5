"""Batches of clips: processes that decode, shares for ranks, and errors that fit one line."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, TypeAlias

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from runtime.command import one_line
from runtime.errors import DataError, TdrlError
from train.data.clips import ArrayClipSet, EpochSampler, Item, KeptClips, VideoClipSet
from train.data.sampling import Key

Clips: TypeAlias = ArrayClipSet | VideoClipSet | KeptClips
Workers: TypeAlias = int | Literal["auto"]

MOST_AUTO_WORKERS = 8
# A command that ends sends it to its loader processes; Windows has none, and ends them anyway.
END = getattr(signal, "SIGUSR1", signal.SIGTERM)
# What a user can cause; anything else is a defect and keeps its traceback.
FOR_THE_USER = (TdrlError, ValueError, OSError, MemoryError)


class ClipLoader(DataLoader[Item]):
    """A `DataLoader` of clips that says in one line what stopped it.

    The order and the workers begin when the first batch is asked for: an epoch that is set after
    `iter()`, as Lightning does when it resumes, is the one that runs.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        """Batches: clips (N, T, 3, h, w) uint8 and classes (N,) int64.

        Raises:
            DataError: A clip cannot be loaded, or a worker process died.
        """
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as err:
                if "DataLoader worker (pid" not in str(err):
                    raise
                raise DataError(
                    f"a loader process died, it probably ran out of memory ({one_line(err)}); "
                    "set fewer workers or a smaller batch_size, in a container a larger --shm-size"
                ) from err
            if isinstance(batch, _Refusal):
                raise DataError(batch.reason)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, where no Lightning does."""
        self.clip_sampler.set_epoch(epoch)

    @property
    def clip_sampler(self) -> EpochSampler:
        """The sampler, for resuming in the middle of an epoch."""
        if not isinstance(self.sampler, EpochSampler):
            raise TypeError(f"the sampler must be an EpochSampler, got {type(self.sampler)}")
        return self.sampler


def clip_loader(
    clips: Clips,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: Workers = "auto",
    rank: int = 0,
    num_ranks: int = 1,
    drop_last: bool = False,
) -> ClipLoader:
    """Batches of a set of clips.

    What is loaded depends on the seed and the epoch alone, never on the number of workers.

    Args:
        clips: The set.
        batch_size: Clips a batch of this rank.
        shuffle: A new order every epoch.
        seed: Seed of the order.
        workers: Loader processes; 0 loads in this process. `auto` takes all cores but one, at
            most 8, and none for arrays, which are in memory already.
        rank: Which process this is, 0..num_ranks-1.
        num_ranks: How many processes share an epoch.
        drop_last: Leave out a last batch that is not full.

    Raises:
        ValueError: A number out of range.
        DataError: Fewer clips than one batch, where the last one is left out.
    """
    sampler = EpochSampler(len(clips), seed=seed, shuffle=shuffle, rank=rank, num_ranks=num_ranks)
    if drop_last and len(sampler) < batch_size:
        raise DataError(
            f"{len(sampler)} clips{' a rank' if num_ranks > 1 else ''} are fewer than one batch "
            f"of {batch_size}; add clips or set batch_size lower"
        )
    number = num_workers(workers, clips)
    return ClipLoader(
        _Guarded(clips),
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=number,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        persistent_workers=number > 0,
        pin_memory=torch.cuda.is_available(),
    )


def num_workers(workers: Workers, clips: Clips | None = None) -> int:
    """How many loader processes `auto` stands for.

    Raises:
        ValueError: Neither `auto` nor a number >= 0.
    """
    if workers != "auto":
        if isinstance(workers, str) or workers < 0:
            raise ValueError(f"workers must be auto or >= 0, got {workers!r}")
        return workers
    if isinstance(clips.clips if isinstance(clips, KeptClips) else clips, ArrayClipSet):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(0, min(MOST_AUTO_WORKERS, (cores or 1) - 1))


@dataclass(frozen=True)
class _Refusal:
    """Why an item cannot be had; it travels between processes where an error would grow."""

    reason: str


class _Guarded(Dataset[Any]):
    """Items of a set, or the reason why there is none."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | Key) -> Item | _Refusal:
        try:
            return self.clips[key]
        except FOR_THE_USER as err:
            return _Refusal(one_line(err))


def _collate(items: list[Item | _Refusal]) -> Any:
    for item in items:
        if isinstance(item, _Refusal):
            return item
    return default_collate(items)


def _start_worker(worker: int) -> None:
    """Loader processes are the threads: OpenCV's own would fight over the cores.

    Ctrl-C and a service manager's SIGTERM reach every process of a command. The one that trains
    answers them; it still needs its batches until the update is done and saved.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _overhear_once)
    signal.signal(END, _end)


def _overhear_once(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(0)  # by a signal it would be a worker that died, and PyTorch would say so


def _end_workers() -> None:
    """End loader processes that a failed command still holds, by its error's traceback.

    Python would send them the one SIGTERM that they overhear, and then wait for them forever.
    """
    for process in multiprocessing.active_children():
        if process.daemon and process.pid is not None:
            os.kill(process.pid, END)


atexit.register(_end_workers)  # runs before Python's own, which was registered earlier
