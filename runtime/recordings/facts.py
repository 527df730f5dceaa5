"""What of a run decides what it says, noted beside every recording."""

from __future__ import annotations

from runtime.bundle import MANIFEST, Bundle
from runtime.files import sha256_of
from runtime.recordings.manifest import RunFacts


def facts_of(bundle: Bundle, phases: int) -> RunFacts:
    """The facts of a bundle in use.

    Args:
        bundle: The bundle, with the window and policy in use.
        phases: Interleaved phases.

    Raises:
        OSError: Its folder is gone.
    """
    return RunFacts(
        bundle=bundle.name,
        bundle_sha256=sha256_of(bundle.folder / MANIFEST),
        window_s=bundle.sampling.window_s,
        phases=phases,
        temperature=bundle.operating.temperature,
        policy=bundle.operating.policy.to_json(),
    )
