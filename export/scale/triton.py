"""Servers with a GPU behind a load balancer, and the boxes that decode for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.scale.boxes import Kind
from export.scale.pieces import MEGA, MS_PER_S, Camera, Pieces, Wish, camera
from export.scale.queueing import fullest_server

CHANNELS = 3  # of a picture, a byte each
BITS = 8
MBIT = 1000.0  # in a Gbit
DRAWS = 10  # of the cameras' names: the fullest server has to take its cameras in every one
MOST_BY_HASH = 2  # times the servers of a table; a site that needs more is better off with a table
ROUNDING = 1e-9


@dataclass(frozen=True)
class Served:
    """What a server does in a batch, and the link that pictures come by.

    Attributes:
        batch_ms: Time of a batch on its GPU, > 0.
        rows: Streams in that batch, >= 1.
        source: Where the time is from, for people.
        link_gbit_per_s: Its network, > 0.
    """

    batch_ms: float
    rows: int
    source: str
    link_gbit_per_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.batch_ms < math.inf:
            raise ValueError(f"--server-batch-ms must be > 0, got {self.batch_ms}")
        if self.rows < 1:
            raise ValueError(f"--server-rows must be >= 1, got {self.rows}")
        if not 0 < self.link_gbit_per_s < math.inf:
            raise ValueError(f"--server-gbit must be > 0, got {self.link_gbit_per_s}")


@dataclass(frozen=True)
class Site:
    """Servers and decoding boxes of one site.

    Attributes:
        name: For people.
        server: A server, by the cameras whose steps it takes.
        decoder: A box, by the cameras that it decodes and sends from.
        price: Of one machine of either kind; None where the reader gave none.
    """

    name: str
    server: Kind
    decoder: Kind
    price: float | None = None

    @property
    def possible(self) -> bool:
        """Both take a camera at all."""
        return self.server.cameras > 0 and self.decoder.cameras > 0

    def servers_by_hash(self, cameras: int) -> int | None:
        """Servers for so many cameras, where a camera's name chooses its server.

        The fullest one, which has more than the mean, must still take all its cameras. None where
        that needs more than twice the servers of a table.

        Raises:
            ValueError: One cannot take a single camera.
        """
        least = self.server.boxes(cameras)
        if not self._takes_all(cameras, MOST_BY_HASH * least):
            return None
        counts = range(least, MOST_BY_HASH * least + 1)
        return next(count for count in counts if self._takes_all(cameras, count))

    def servers_by_table(self, cameras: int) -> int:
        """Servers for so many cameras, where a new camera goes to the emptiest.

        Raises:
            ValueError: One cannot take a single camera.
        """
        return self.server.boxes(cameras)

    def _takes_all(self, cameras: int, servers: int) -> bool:
        """No server has too many in any of the draws."""
        most = self.server.cameras * servers / cameras
        draws = (fullest_server(cameras, servers, by_hash=True, seed=n) for n in range(DRAWS))
        return all(factor <= most + ROUNDING for factor in draws)


def triton_site(
    pieces: Pieces, wish: Wish, served: Served, *, cores: int, price: float | None = None
) -> Site:
    """Servers that do only the steps, and boxes with cores like the measured one.

    Args:
        pieces: What was measured.
        wish: What is wanted.
        served: What a server does.
        cores: Cores of a decoding box.
        price: Of one machine of either kind; None where the reader gave none.

    Raises:
        ValueError: The boxes have no core.
    """
    if cores < 1:
        raise ValueError(f"--decoder-cores must be >= 1, got {cores}")
    interval_ms = MS_PER_S / wish.ticks_per_s
    in_time = served.batch_ms <= interval_ms  # else every decision comes after the next tick
    by_what = {
        "steps": wish.busy * served.rows * interval_ms / served.batch_ms if in_time else 0.0,
        "network": wish.busy * MBIT * served.link_gbit_per_s / pictures_mbit_per_s(pieces, wish),
    }
    server_limit = min(by_what, key=lambda part: by_what[part])
    each = sending_camera(pieces, wish)
    limit = "decoding" if each.decode_cores > each.own_cores else "own"
    return Site(
        f"Triton servers ({served.source}) + boxes of {cores} cores",
        Kind("server", math.floor(by_what[server_limit]), server_limit),
        Kind(f"{cores} cores", math.floor(wish.busy * cores / each.cores), limit),
        price,
    )


def pictures_mbit_per_s(pieces: Pieces, wish: Wish) -> float:
    """A camera's pictures on their way to a server, as the model takes them."""
    return wish.ticks_per_s * CHANNELS * BITS * pieces.size_px**2 / MEGA


def sending_camera(pieces: Pieces, wish: Wish) -> Camera:
    """What a camera takes on the box that decodes it and sends its pictures to a server.

    Its memory is at most that of a stream with its states; the client's own work is not in it.
    """
    here = camera(pieces, wish, pieces.best_batch)
    return Camera(
        decode_cores=here.decode_cores,
        step_cores=0.0,
        own_cores=here.own_cores,
        memory_mb=pieces.stream_mb,
        events_mb_per_day=here.events_mb_per_day,
        mbit_per_s=wish.mbit_per_s + pictures_mbit_per_s(pieces, wish),
    )
