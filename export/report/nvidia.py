"""What NVIDIA's builder made of a bundle's INT8 graph, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.engines.build_log import BuildCheck, nvidia_build_check
from export.report.verdict import read_report
from runtime.bundle import load_bundle


def nvidia_part(check: BuildCheck, meant: int, compute_capability: str) -> dict[str, Any]:
    """The report's part.

    Args:
        check: What the builder did.
        meant: Convolutions that are INT8 in the graph.
        compute_capability: The GPU that was built for, such as `SM86`.
    """
    return {
        "compute_capability": compute_capability,
        "meant": meant,
        "int8": len(check.int8_convs),
        "float": list(check.float_convs),
        "kernels": check.kernels,
        "plan_bytes": check.plan_bytes,
    }


def nvidia_part_of(folder: Path, compute_capability: str) -> dict[str, Any]:
    """Build a finished bundle's INT8 graph with NVIDIA's builder, without a GPU.

    Raises:
        BundleError: The bundle is not whole.
        ExportError: No builder here, no report, or a warning that is not allowed.
        EngineError: The builder refused the graph.
    """
    path = load_bundle(folder).graph_path("step_int8")
    meant = int(read_report(folder)["quantisation"]["int8_convolutions"])
    check = nvidia_build_check(path, compute_capability=compute_capability)
    return nvidia_part(check, meant, compute_capability)
