"""CUDA's runtime library through NVIDIA's `cuda-bindings`, its error codes made exceptions.

pycuda cannot capture CUDA graphs; cuda-bindings can, and is the second memory backend. Both work in
the device's primary context and share streams and addresses. Release 12.9 is for JetPack 6, 13 for
JetPack 7; the functions that we use are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.errors import SessionError


class Cudart:
    """The module `cuda.bindings.runtime`.

    Attributes:
        api: The module itself.

    Raises:
        SessionError: cuda-bindings is not installed or does not load.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except (ImportError, OSError) as err:
            raise SessionError(
                f"cuda-bindings cannot be imported ({err}); pip install 'cuda-bindings==12.9.*' "
                "on JetPack 6, 'cuda-bindings==13.*' on JetPack 7"
            ) from err
        self.api: Any = runtime

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call one of the functions of `api`.

        Args:
            what: What it means for the user if it fails.
            function: It gives a code, then its result if it has one.
            arguments: Handles, addresses and sizes as integers, and enum members.

        Returns:
            The result, or None where the function has none.

        Raises:
            SessionError: The code is an error, or the driver lacks the function.
        """
        try:
            code, *values = function(*arguments)
        except RuntimeError as err:  # no driver library, or an older one
            raise SessionError(f"{what}: {err}; update the NVIDIA driver") from err
        if code != self.api.cudaError_t.cudaSuccess:
            _, text = self.api.cudaGetErrorString(code)
            raise SessionError(f"{what}: {text.decode()}; close other GPU programs or restart it")
        return values[0] if values else None


def has_cudart() -> bool:
    """Whether cuda-bindings is installed and loads; it does so without a GPU too."""
    try:
        Cudart()
    except SessionError:
        return False
    return True
