"""A build that Ctrl-C can end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runtime.build_progress import BuildMonitor, Progress, trt_monitor
from runtime.nvidia_types import TensorRT

if TYPE_CHECKING:
    import tensorrt as nv

POLL_S = 0.1


def cancellable_build(
    trt: TensorRT,
    builder: nv.Builder,
    network: nv.INetworkDefinition,
    config: nv.IBuilderConfig,
    on_progress: Progress | None,
) -> nv.IHostMemory | None:
    """Build in a thread, so that Ctrl-C reaches this one; cancel the build when it comes.

    Args:
        trt: The library.
        builder: Its builder.
        network: What to build.
        config: How; gets a progress monitor where the library knows one (from TensorRT 10 on).
        on_progress: Called with the share that is done, 0..1, in the calling thread.

    Returns:
        The plan; None if the build failed, the reason is in the library's log.

    Raises:
        KeyboardInterrupt: Ctrl-C; the build has ended when it is raised.
        Exception: What the library raised.
    """
    monitor = BuildMonitor()
    listens = hasattr(config, "progress_monitor")
    if listens:
        config.progress_monitor = trt_monitor(trt, monitor)
    outcome: list[nv.IHostMemory | Exception | None] = []
    # An event and not `join`: before Python 3.13 a join that Ctrl-C interrupts takes the thread for
    # finished (bpo-45274), and a process that ends while the builder still works aborts.
    done = threading.Event()
    # daemon: TensorRT 8 cannot cancel a build and must not hold the process
    worker = threading.Thread(
        target=_build_into, args=(outcome, done, builder, network, config), daemon=True
    )
    worker.start()
    try:
        while not done.wait(POLL_S):
            if on_progress is not None:
                on_progress(monitor.share())
    except BaseException:
        monitor.cancelled.set()
        if listens:
            done.wait()
        raise
    (plan,) = outcome
    if isinstance(plan, Exception):
        raise plan
    return plan


def _build_into(
    outcome: list[nv.IHostMemory | Exception | None],
    done: threading.Event,
    builder: nv.Builder,
    network: nv.INetworkDefinition,
    config: nv.IBuilderConfig,
) -> None:
    try:
        outcome.append(builder.build_serialized_network(network, config))
    except Exception as err:  # noqa: BLE001  raised again in the caller's thread
        outcome.append(err)
    finally:
        done.set()
