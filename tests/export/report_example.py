"""A report as an export writes it, with made-up numbers and names that would break a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.gate import clip_gate, paired_loss
from export.report.verdict import REPORT_SCHEMA
from export.stream.growth import growth_of

HOSTILE = "<script>alert(\"x\")</script> & 'co'"


def stream_example(*, grows: bool = False, steps: int = 1100) -> dict[str, Any]:
    """A long stream's part of the report."""
    kept = steps * 10 // 11
    distance = np.full(kept, 0.01) + 0.001 * np.sin(np.arange(kept))
    if grows:
        distance = distance * np.linspace(1, 5, kept)
    noise = {"sqnr_db": 44.0, "by_block": [44.0] * 10}
    return {
        "steps": steps,
        "wanted_steps": steps,
        "clips": 11,
        "block_steps": steps // 11,
        "seconds": 3.0,
        "measured": "Measured on a machine.",
        "logits_range": 20.0,
        "logits_sqnr_db": 30.0,
        "same_top1": 0.98,
        "int8": growth_of(distance).to_json(),
        "onnx_model": {"largest": 3e-7, **growth_of(np.full(kept, 1e-7)).to_json()},
        "trace": {"step": [200, 1100], "median": [0.01, 0.01], "high": [0.02, 0.02]},
        "states": [
            {"state": 0, "start": 0, "stop": 16, "block": 1, "kind": "PEM", "sqnr_db": 46.0},
            {"state": 1, "start": 0, "stop": 4, "block": 1, "kind": "TSM", "sqnr_db": 26.0},
        ],
        "kinds": {kind: {**noise, "lowest_db": 40.0} for kind in ("PEM", "TSM")},
        "state_math": {"sqnr_db": 140.0, "by_block": [140.0] * 10},
    }


def gate_example() -> dict[str, Any]:
    """The gate's part: of 500 clips INT8 loses one, of 100 actions none."""
    label = np.zeros(500, np.int64)
    logits = np.tile(np.array([[3.0, 0.0]], np.float32), (500, 1))
    int8 = logits.copy()
    int8[7] = [0.0, 1.0]
    right = np.ones(100, bool)
    gate = clip_gate(logits, int8, label, paired_loss(right, right))
    return {**gate.to_json(), "allowed_loss": 0.005, "remarks": ["a remark"]}


def report_example() -> dict[str, Any]:
    """All parts, without a verdict."""
    parity = {"sqnr_db": 30.0, "same_top1": 0.97, "relative": 0.04, "steps": 128}
    return {
        "schema_version": REPORT_SCHEMA,
        "name": HOSTILE,
        "created_utc": "2026-11-24T00:00:00+00:00",
        "made_on": "Measured on a machine.",
        "versions": {"python": "3.11", HOSTILE: HOSTILE},
        "accuracy": [
            {
                "what": "top-1 on held-out clips",
                "precision": precision,
                "value": 0.9,
                "count": 500,
                "low": 0.87,
                "high": 0.92,
            }
            for precision in ("float32", "float16", "int8")
        ],
        "files": [
            {"kind": "step", "file": "step.onnx", "bytes": 2_000_000},
            {"kind": "step_int8", "file": "step.int8.onnx", "bytes": 500_000},
        ],
        "model": {"backbone": "tiny", "temporal": "tsm", "pem": True, "labels": [HOSTILE, "b"]},
        "picture": {"width_px": 40, "height_px": 32, "crop": "full"},
        "sampling": {"num_segments": 8, "window_s": 2.0},
        "cost": {"parameters": 1000, "clip_macs": 8_000_000, "step_macs": 10**6, "state_size": 80},
        "training": {
            "run": HOSTILE,
            "data": HOSTILE,
            "metrics": {"clip_top1": 0.9},
            "recipe": {"epochs": 3, "backbone": HOSTILE},
        },
        "parity": parity,
        "float16": {"agreement": 1.0, "sqnr_db": 60.0},
        "calibration": {"clips": 30, "steps": 240, "resets": 15, "unreadable": 1, "comparing": 10},
        "quantisation": {
            "method": "mse",
            "compared": {"minmax": parity, "mse": parity},
            "int8_convolutions": 12,
            "sensitivity": {
                "layers": [
                    {"conv": HOSTILE, "sqnr_db": 20.0, "macs_share": 0.1, "top1_loss": 0.01},
                    {"conv": "second", "sqnr_db": 30.0, "macs_share": 0.2, "top1_loss": None},
                ],
                "kept_float": [HOSTILE],
                "accuracy_clips": 100,
            },
            "kept_float": [{"conv": HOSTILE, "reason": HOSTILE, "macs_share": 0.1}],
            "steps_tried": [{"name": HOSTILE, "sqnr_db": 3.0, "agreement": 0.9, "kept": True}],
            "state_sqnr_db": {"state_in_00": 40.0},
            "state_kinds": {"state_in_00": "PEM"},
        },
        "gate": gate_example(),
        "changed": {
            "count": 500,
            "changed": 1,
            "clips": [
                {
                    "number": 8,
                    "label": HOSTILE,
                    "float": HOSTILE,
                    "int8": "b",
                    "prob_float": 0.9,
                    "prob_int8": 0.6,
                    "moved": 0.5,
                }
            ],
            "moves": [{"float": HOSTILE, "int8": "b", "count": 1}],
        },
        "state_parts": [],
        "drift": stream_example(),
        "nvidia": {
            "compute_capability": "SM86",
            "meant": 12,
            "int8": 11,
            "float": [HOSTILE],
            "kernels": 61,
            "plan_bytes": 800_000,
        },
    }
