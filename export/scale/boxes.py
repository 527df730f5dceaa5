"""How many machines so many cameras need, and what limits each kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.scale.pieces import MS_PER_S, Pieces, Wish, camera


@dataclass(frozen=True)
class Kind:
    """A kind of machine, as the reader would buy it.

    Attributes:
        name: For people.
        cameras: How many one can take; 0 where it cannot take one.
        limit: What runs out first.
        price: Of one; None where the reader gave none.
        watts: Power of one; None likewise.
    """

    name: str
    cameras: int
    limit: str
    price: float | None = None
    watts: float | None = None

    def boxes(self, cameras: int) -> int:
        """Machines for so many cameras.

        Raises:
            ValueError: One cannot take a single camera.
        """
        if self.cameras < 1:
            raise ValueError(f"{self.name} cannot take one camera: {self.limit} runs out")
        return math.ceil(cameras / self.cameras)

    def per_camera(self, amount: float | None, cameras: int) -> float | None:
        """A price or power of all machines, by camera; None where the reader gave none."""
        return None if amount is None else amount * self.boxes(cameras) / cameras


def cpu_box(
    pieces: Pieces, wish: Wish, *, cores: int, memory_gb: float, hardware_decode: bool = False
) -> Kind:
    """Cameras that a machine without a GPU takes, with cores like the measured one.

    Each batch has one thread, so a batch must not take longer than a tick.

    Args:
        pieces: What was measured.
        wish: What is wanted.
        cores: Cores of the machine.
        memory_gb: Its memory.
        hardware_decode: Decoding costs no core.
    """
    each = camera(pieces, wish, pieces.best_batch)
    cores_each = each.cores - (each.decode_cores if hardware_decode else 0.0)
    by_cores = math.floor(wish.busy * cores / cores_each)
    by_memory = math.floor((1000 * memory_gb - pieces.base_mb) / max(each.memory_mb, 0.1))
    cameras = max(0, min(by_cores, by_memory))
    parts = {"decoding": each.decode_cores, "steps": each.step_cores, "own": each.own_cores}
    if hardware_decode:
        del parts["decoding"]
    limit = "memory" if by_memory < by_cores else max(parts, key=lambda name: parts[name])
    decoding = ", hardware decoding" if hardware_decode else ""
    return Kind(f"{cores} cores{decoding}", cameras, limit)


def device_box(
    name: str, *, batch_ms: float, rows: int, decoded_fps: float, wish: Wish, host_ms: float
) -> Kind:
    """Cameras that a device with a GPU and a hardware decoder takes.

    Args:
        name: Its name.
        batch_ms: GPU time of a batch.
        rows: Streams in that batch.
        decoded_fps: Frames a second of the wanted picture that its decoder takes.
        wish: What is wanted.
        host_ms: What the CPU does for a tick, on one core that is left free for it.
    """
    by_what = {
        "steps": wish.busy * MS_PER_S * rows / (batch_ms * wish.ticks_per_s),
        "decoding": decoded_fps / wish.fps,
        "own": wish.busy * MS_PER_S / (host_ms * wish.ticks_per_s),
    }
    limit = min(by_what, key=lambda part: by_what[part])
    return Kind(name, math.floor(by_what[limit]), limit)
