"""Make NVIDIA's types readable for mypy: a repaired copy of `tensorrt-stubs`.

    python .ci/tensorrt_types.py .venv/typings

The package's stubs were generated from the bindings of TensorRT 10.13. Five of their lines are no
Python (`in` as an argument's name, a default before an argument without one), so mypy reads
nothing of them, and `__version__` is missing. The copy has that repaired; mypy finds it by
`mypy_path`.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

PACKAGE = "tensorrt-stubs"
REPAIRS = (
    (re.compile(r"\bin: list\["), "in_: list["),
    (re.compile(r"\bchannel_axis: int\)"), "channel_axis: int = ...)"),
    # the package sets it in code, which the generator did not see
    (re.compile(r"\A(from __future__ import annotations\n)"), r"\1__version__: str\n"),
    (re.compile(r"(?m)^(__all__.* = \[)"), r"\1'__version__', "),
)


def main() -> None:
    """Copy every stub of the package into a folder, repaired."""
    target = Path(sys.argv[1])
    for file in metadata.files(PACKAGE) or ():
        if file.suffix != ".pyi":
            continue
        text = Path(str(file.locate())).read_text(encoding="utf-8")
        for pattern, repaired in REPAIRS:
            text = pattern.sub(repaired, text)
        ast.parse(text, str(file))
        copy = target / str(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
