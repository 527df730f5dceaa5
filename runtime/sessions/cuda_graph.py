"""One step as a CUDA graph: recorded once, then launched with one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.sessions.cudart import Cudart


class CudaGraph:
    """Work that was recorded on a stream: the same kernels and copies at the same addresses.

    Args:
        cudart: The runtime library.
        executable: The instantiated graph; `destroy` frees it.
        stream_handle: The stream to launch it on.
    """

    def __init__(self, cudart: Cudart, executable: Any, stream_handle: int) -> None:
        self._cudart = cudart
        self._executable = executable
        self._stream_handle = stream_handle

    def launch(self) -> None:
        """Queue the recorded work on the stream.

        Raises:
            SessionError: The GPU refuses.
        """
        self._cudart.call(
            "a CUDA graph does not start",
            self._cudart.api.cudaGraphLaunch,
            self._executable,
            self._stream_handle,
        )

    def destroy(self) -> None:
        """Free it; it cannot be launched afterwards."""
        self._cudart.call(
            "a CUDA graph cannot be freed", self._cudart.api.cudaGraphExecDestroy, self._executable
        )


def capture_graph(cudart: Cudart, stream_handle: int, enqueue: Callable[[], None]) -> CudaGraph:
    """Record what a function queues on a stream; nothing of it runs.

    Other threads may use the GPU meanwhile; this one may do nothing but queue.

    Args:
        cudart: The runtime library.
        stream_handle: The stream that `enqueue` queues on; never the default stream.
        enqueue: Queues copies and kernels, all of which have run once before: engines allocate on
            their first run, and a recording cannot.

    Raises:
        SessionError: Something of it cannot be recorded. The stream is usable again.
    """
    api = cudart.api
    cudart.call(
        "a CUDA graph cannot be recorded",
        api.cudaStreamBeginCapture,
        stream_handle,
        api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
    )
    try:
        enqueue()
    except BaseException:
        # the recording ends either way; its own error would hide the first
        _, graph = api.cudaStreamEndCapture(stream_handle)
        if graph is not None and int(graph):
            api.cudaGraphDestroy(graph)
        raise
    graph = cudart.call("the step cannot be recorded", api.cudaStreamEndCapture, stream_handle)
    try:
        executable = cudart.call("a CUDA graph cannot be made", api.cudaGraphInstantiate, graph, 0)
    finally:
        cudart.call("a recording cannot be freed", api.cudaGraphDestroy, graph)
    return CudaGraph(cudart, executable, stream_handle)
