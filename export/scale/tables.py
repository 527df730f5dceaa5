"""The tables of docs/scale.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from export.roofline.table import PredictedStep
from export.scale.boxes import Kind, cpu_box, device_box
from export.scale.pieces import MS_PER_S, Camera, Pieces, Wish, camera
from export.scale.queueing import Waits, aligned, before_batcher, fullest_server
from export.scale.triton import Site, sending_camera

CAMERAS = (1, 8, 32, 100, 1000, 10_000)
STREAMS = (1, 4, 8, 16, 32)
LOADS = (0.5, 0.7, 0.85, 0.95)
SERVERS = (2, 8, 32)
# H.265 at 1920 × 1080 and 30 frames/s: NVIDIA's data sheet of the Orin Nano series, 11 streams
ORIN_NANO_DECODES = 11 * 30 * 1920 * 1080
# not measured: a core of an Orin, as a multiple of the measured one's time
ARM_FACTOR = 2.0
EIGHT = 8


def pieces_table(pieces: Pieces, wish: Wish) -> str:
    """What one camera takes: alone, in the best batch, and on a box that sends to a server."""
    lines = [
        "| one camera | decoding | steps | own | cores | memory, MB | events, MB/day | Mbit/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for streams in dict.fromkeys((1, pieces.best_batch)):
        what = "alone" if streams == 1 else f"one of {streams} in a batch"
        lines.append(_camera_row(what, camera(pieces, wish, streams)))
    lines.append(_camera_row("decoded here, stepped by Triton", sending_camera(pieces, wish)))
    return "\n".join(lines)


def _camera_row(what: str, one: Camera) -> str:
    return (
        f"| {what} | {one.decode_cores:.4f} | {one.step_cores:.4f} | {one.own_cores:.4f} "
        f"| {one.cores:.3f} | {one.memory_mb:.1f} | {one.events_mb_per_day:.0f} "
        f"| {round(one.mbit_per_s, 2):g} |"
    )


def kinds(pieces: Pieces, wish: Wish, predicted: PredictedStep | None) -> list[Kind]:
    """Machines that the pieces say something about."""
    found = [
        cpu_box(pieces, wish, cores=cores, memory_gb=memory_gb)
        for cores, memory_gb in ((2, 8), (16, 32), (64, 128))
    ]
    found.append(cpu_box(pieces, wish, cores=16, memory_gb=32, hardware_decode=True))
    if predicted is not None:
        width_px, height_px = (int(part) for part in wish.picture.split("x"))
        found.append(
            device_box(
                f"{predicted.device} (predicted)",
                batch_ms=predicted.eight_ms,
                rows=EIGHT,
                decoded_fps=ORIN_NANO_DECODES / (width_px * height_px),
                wish=wish,
                host_ms=ARM_FACTOR * pieces.own_ms,
            )
        )
    return found


def boxes_table(found: Sequence[Kind], cameras: Sequence[int] = CAMERAS) -> str:
    """Machines by cameras; prices where the reader gave them."""
    lines = [
        f"| machine | cameras each | what runs out | {' | '.join(f'{n:,}' for n in cameras)} |",
        "|" + "---|" * (3 + len(cameras)),
    ]
    for kind in found:
        cells = [f"{kind.boxes(n):,}" if kind.cameras else "–" for n in cameras]
        if kind.price is not None and kind.cameras:
            cells = [
                f"{cell} ({kind.per_camera(kind.price, n):.2f})"
                for cell, n in zip(cells, cameras, strict=True)
            ]
        lines.append(f"| {kind.name} | {kind.cameras} | {kind.limit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def site_row(site: Site, cameras: Sequence[int] = CAMERAS) -> str:
    """Servers by hash / by table + decoding boxes, as a row below the machines."""
    cells = [_site_cell(site, n) if site.possible else "–" for n in cameras]
    each = f"{site.server.cameras} + {site.decoder.cameras}"
    limit = f"{site.server.limit} + {site.decoder.limit}"
    return f"| {site.name} | {each} | {limit} | {' | '.join(cells)} |"


def _site_cell(site: Site, cameras: int) -> str:
    by_hash, by_table = site.servers_by_hash(cameras), site.servers_by_table(cameras)
    boxes = site.decoder.boxes(cameras)
    text = f"{'–' if by_hash is None else f'{by_hash:,}'} / {by_table:,} + {boxes:,}"
    if site.price is None:
        return text
    machines = boxes + (by_table if by_hash is None else by_hash)
    return f"{text} ({site.price * machines / cameras:.2f})"


def aligned_table(pieces: Pieces, wish: Wish) -> str:
    """Waits of streams in a box."""
    interval_ms, frame_ms = MS_PER_S / wish.ticks_per_s, MS_PER_S / wish.fps
    lines = [
        "| streams | step, ms | rows a step | p50, ms | p99, ms | late |",
        "|---|---|---|---|---|---|",
    ]
    for streams in STREAMS:
        step_ms = streams * pieces.row_ms(streams)
        waits = aligned(streams, step_ms, interval_ms=interval_ms, frame_ms=frame_ms)
        lines.append(f"| {streams} | {step_ms:.1f} | {_waits(waits)} |")
    return "\n".join(lines)


def batcher_table(
    step_ms: Callable[[int], float], wish: Wish, *, most_rows: int, delay_ms: float
) -> str:
    """Waits before a server's batcher, by how busy the server is."""
    interval_ms = MS_PER_S / wish.ticks_per_s
    most = interval_ms / (step_ms(most_rows) / most_rows)
    lines = [
        "| load | cameras | rows a step | p50, ms | p99, ms | late |",
        "|---|---|---|---|---|---|",
    ]
    for load in LOADS:
        cameras = max(1, int(load * most))
        waits = before_batcher(
            cameras, step_ms, interval_ms=interval_ms, most_rows=most_rows, delay_ms=delay_ms
        )
        lines.append(f"| {load:.0%} | {cameras} | {_waits(waits)} |")
    return "\n".join(lines)


def affinity_table(cameras: Sequence[int] = (100, 1000, 10_000)) -> str:
    """How uneven servers are, by how a camera finds its own."""
    lines = [
        "| cameras | " + " | ".join(f"{n} servers" for n in SERVERS) + " |",
        "|" + "---|" * (1 + len(SERVERS)),
    ]
    for count in cameras:
        cells = [
            f"{fullest_server(count, n, by_hash=True):.2f} / "
            f"{fullest_server(count, n, by_hash=False):.2f}"
            for n in SERVERS
        ]
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _waits(waits: Waits) -> str:
    if waits.late > 0.5:  # a queue that grows has no percentiles
        return f"{waits.rows:.1f} | – | – | cannot keep up"
    return f"{waits.rows:.1f} | {waits.p50_ms:.0f} | {waits.p99_ms:.0f} | {waits.late:.1%}"
