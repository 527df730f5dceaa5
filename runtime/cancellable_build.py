"""A build that Ctrl-C can end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from runtime.build_progress import BuildMonitor, Progress, trt_monitor
from runtime.nvidia_types import TensorRT

if TYPE_CHECKING:
    import tensorrt as nv

POLL_S = 0.1
THREAD_NAME = "NVIDIA build"

Result = TypeVar("Result")


def in_thread(
    work: Callable[[], Result],
    *,
    meanwhile: Callable[[], None] | None = None,
    stop: Callable[[], bool] = lambda: True,
) -> Result:
    """Do the library's work in a thread, so that Ctrl-C reaches this one.

    Where the library calls Python back in the main thread, its log among others, a
    KeyboardInterrupt is raised inside the callback, and the bindings swallow it.

    Args:
        work: What to do.
        meanwhile: Called ten times a second in the calling thread.
        stop: Called after Ctrl-C: asks the work to end; whether it will, and is waited for.

    Returns:
        What the work gave.

    Raises:
        KeyboardInterrupt: Ctrl-C; the work has ended when it is raised, if `stop` said so.
        Exception: What the work raised.
    """
    outcome: list[Result | Exception] = []
    # An event and not `join`: before Python 3.13 a join that Ctrl-C interrupts takes the thread for
    # finished (bpo-45274), and a process that ends while the builder still works aborts.
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as err:  # noqa: BLE001  raised again in the caller's thread
            outcome.append(err)
        finally:
            done.set()

    # daemon: TensorRT 8 cannot cancel a build and must not hold the process
    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    try:
        while not done.wait(POLL_S):
            if meanwhile is not None:
                meanwhile()
    except BaseException:
        if stop():
            done.wait()
        raise
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result


def cancellable_build(
    trt: TensorRT,
    builder: nv.Builder,
    network: nv.INetworkDefinition,
    config: nv.IBuilderConfig,
    on_progress: Progress | None,
) -> nv.IHostMemory | None:
    """Build in a thread; cancel the build when Ctrl-C comes.

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

    def report() -> None:
        if on_progress is not None:
            on_progress(monitor.share())

    def stop() -> bool:
        monitor.cancelled.set()
        return listens

    return in_thread(
        lambda: builder.build_serialized_network(network, config), meanwhile=report, stop=stop
    )
