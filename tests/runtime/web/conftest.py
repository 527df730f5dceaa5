import importlib.util
from dataclasses import replace

import pytest

from tests.mini_bundle import write_mini_bundle

if importlib.util.find_spec("uvicorn") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    labels = ("wave", "<script>document.title='owned'</script>", 'say "hi"\\\n')
    bundle = write_mini_bundle(tmp_path_factory.mktemp("web"), labels=labels, window_s=0.5)
    # no class leads by so much: the only actions are those that a test notes
    policy = replace(bundle.operating.policy, margin=1.0)
    return replace(bundle, operating=replace(bundle.operating, policy=policy))
