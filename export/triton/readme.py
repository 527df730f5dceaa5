"""What a model repository's README.md tells whoever writes a client."""

from __future__ import annotations

from export.triton.config import LABELS_FILE, Served, idle_us, model_name
from runtime.bundle import Bundle, Precision
from runtime.preprocess import PAD_RGB, PictureRule
from runtime.sampling import default_phases


def readme_text(
    bundle: Bundle, precision: Precision, served: Served, sequences: int, needs: str
) -> str:
    """The text of a repository's README.md.

    Args:
        bundle: The bundle.
        precision: Which graph is served.
        served: How it is served.
        sequences: Sequences that the server keeps at once.
        needs: What the server must have, for people.
    """
    name = model_name(bundle)
    return f"""\
# {name}: live action recognition on Triton

The {precision} step graph of the bundle `{bundle.name}`, {len(bundle.labels)} classes. The server
keeps the recurrent states of each camera (implicit state); clients send frames and get logits.

    tritonserver --model-repository=THIS_FOLDER

{needs} {sequences} sequences run at once and others wait; up to {served.max_batch_size} of them
share a batch. `--sequences` of `export.to_triton` changes that.

**What was tried, and what was not.** The project's tests serve such a repository with a real Triton
server (2.51): its configuration, scheduling, START control and states, with a stand-in for the
backend that runs the ONNX file. Triton's own onnxruntime and tensorrt backends have not run it.

{_rules(bundle, name)}
## A client

The tests run it as it is here; `frames` are the camera's pictures.

```python
{client_code(bundle)}```
"""


def client_code(bundle: Bundle) -> str:
    """A client in the standard library and numpy; `frames` is the caller's."""
    sampling = bundle.sampling
    return f'''\
import collections, json, urllib.request
import numpy as np

URL = "http://localhost:8000/v2/models/{model_name(bundle)}/infer"


def step(frame, camera, start=False, end=False):
    """Logits of one picture, uint8 (H, W, 3) RGB, of the camera with this id."""
    head = json.dumps({{
        "inputs": [{{"name": "frame", "datatype": "UINT8", "shape": [1, *frame.shape],
                    "parameters": {{"binary_data_size": frame.nbytes}}}}],
        "outputs": [{{"name": "logits"}}],
        "parameters": {{"sequence_id": camera, "sequence_start": start, "sequence_end": end}},
    }}).encode()
    length = {{"Inference-Header-Content-Length": str(len(head))}}
    request = urllib.request.Request(URL, head + frame.tobytes(), length)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["outputs"][0]["data"]


recent = collections.deque(maxlen={sampling.consensus_len})
for number, frame in enumerate(frames):  # one every {sampling.spacing_s:.6g} s
    recent.append(step(frame, camera=1, start=number == 0))
    logits = np.mean(np.float32(recent), axis=0)
    print(number, logits.argmax(), "warming" if number + 1 < {sampling.num_segments} else "")
'''


def _rules(bundle: Bundle, name: str) -> str:
    rule, sampling = bundle.picture, bundle.sampling
    T, spacing_s = sampling.num_segments, sampling.spacing_s
    phases = default_phases(sampling)
    several = f"{phases} phases" if phases > 1 else "several phases"
    return f"""\
## What a client does

1. **Spacing.** One frame every **{spacing_s:.6g} s** of the video's own time
   ({sampling.window_s:g} s in {T} segments): the first at or after each tick, the others are not
   sent. The model was trained at this spacing.
2. **Picture.** `frame` is uint8, 1 x {rule.height_px} x {rule.width_px} x 3, RGB, 0..255:
   {_crop(rule)}.
   `fit_picture` in `runtime/preprocess.py` makes it as training did.
3. **One correlation id a camera**, above 0, on each of its requests; they go out in order, the next
   after the answer to the last. For denser decisions {several} take turns, each at the spacing
   above and each with **an id of its own**: a phase has its own states.
4. **Start.** `sequence_start` on a camera's first frame, after a reconnect, and after a gap of more
   than {2 * spacing_s:.6g} s (two spacings), nowhere else: it makes the states zero.
5. **Decision.** The mean of the camera's last **{sampling.consensus_len}** logits in float32 (of
   several phases: the mean of their means), then softmax. Before {T} frames have come since a start
   the window is not full: do not rely on it yet. Classes: `{name}/{LABELS_FILE}`, in order.
6. **End.** `sequence_end` on the last frame of a camera that goes; the server frees its states. One
   that is silent for {idle_us(bundle) / 1e6:g} s is forgotten, and refused until it starts anew.
"""


def _crop(rule: PictureRule) -> str:
    if rule.crop == "center":
        return "the middle of the camera's frame (crop `center`)"
    what = "the whole frame" if rule.roi is None else f"the part {list(rule.roi)} of the frame"
    return f"{what}, scaled to fit, bars of the colour {PAD_RGB} (crop `{rule.crop}`)"
