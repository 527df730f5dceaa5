"""Recipes: one YAML file says all that a training run needs, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from runtime.preprocess import Crop, PictureRule
from runtime.sampling import LONGEST_WINDOW_S, ClipLengths, SamplingContract
from train.data.loader import Workers
from train.data.sampling import SAMPLINGS, Sampling
from train.model.backbones.table import BACKBONES
from train.model.head import HEADS, Head
from train.model.pem import Form, StartMotion
from train.model.unit import TEMPORALS, Temporal, UnitConfig

Optimizer: TypeAlias = Literal["adamw", "sgd"]
Schedule: TypeAlias = Literal["one_cycle", "cosine", "steps"]
NormMode: TypeAlias = Literal["train", "partial", "frozen"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]

CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": BACKBONES,
    "temporal": TEMPORALS,
    "head": HEADS,
    "crop": ("center", "full"),  # a region belongs to one camera, not to a recipe
    "form": ("causal", "lookahead"),
    "start_motion": ("zeros", "last_difference"),
    "sampling": SAMPLINGS,
    "validation": SAMPLINGS,
    "optimizer": ("adamw", "sgd"),
    "schedule": ("one_cycle", "cosine", "steps"),
    "batch_norm": ("train", "partial", "frozen"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
POSITIVE = (
    *("num_segments", "shift_div", "reduction", "epochs", "batch_size", "accumulate"),
    *("learning_rate", "backbone_lr", "validate_every"),
)
NOT_NEGATIVE = ("td_loss", "weight_decay", "seed", "warmup_epochs", "clip_norm")
# fields, the range in words, whether a value lies in it
RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (POSITIVE, "> 0", lambda value: value > 0),
    (("pre_roll", "label_smoothing", "low_light"), "in [0, 1]", lambda value: 0 <= value <= 1),
    (("dropout", "jitter", "ema", "momentum"), "in [0, 1)", lambda value: 0 <= value < 1),
    (("td_ratio",), "in (0, 1]", lambda value: 0 < value <= 1),
    # beyond sense, but short of where an optimiser's own numbers overflow
    (("learning_rate", "backbone_lr"), "<= 1e30", lambda value: value <= 1e30),
    (NOT_NEGATIVE, ">= 0", lambda value: value >= 0),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    A file may also say `preset: tsn | tsm | teinet | tdrl`, which stands for the fields temporal,
    pem, reduction and td_loss; what the file says itself holds.

    Attributes:
        backbone: `efficientnet_lite0`, `resnet18`, `resnet50`, `tiny`, ...
        temporal: Temporal module: `none`, `tsm`, `tim`, `mem`, `tei` or `vsn`.
        pem: Whether PEM is there.
        pem_first: PEM before the temporal module (the paper's figure) or after it.
        reduction: r of PEM and MEM.
        start_motion: PEM's m_0: `zeros`, or the paper's `last_difference` (lookahead only).
        shift_div: TSM moves C/shift_div channels.
        form: `causal` streams, `lookahead` is for whole clips.
        head: What reads the pooled features over time: `none`, or a baseline of the ablation that
            does not stream, `gru` or `tconv` (causal, three frames), 256 channels at most.
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        crop: Crop rule, see runtime/preprocess.py.
        num_segments: T, frames a clip.
        window_s: Seconds of the live window; None takes the median training clip.
        consensus_len: How many of the last logits a live decision averages; None fits it on a
            validation tape where there is one, else takes T.
        sampling: Training clips: `live` draws windows as the runtime sees them, `segments` one
            frame a segment, `dense` a window of window_s anywhere.
        validation: The same for validation clips, without chance.
        multi_scale_crop: TSN's random crops.
        flip: Mirror half of the clips; classes that say a direction become their partner.
        jitter: Largest relative change of brightness, contrast and colour.
        low_light: Share of the clips that are shown as in the dark.
        reverse: Pairs of classes that are each other backwards, `open/close`; `wave/wave` is
            itself. Half of their clips are played backwards: twice the data, and only order tells
            them apart.
        cache: Folder that `train.prepare --cache` filled; None decodes the recordings.
        epochs: Passes over the training set.
        batch_size: Clips a step and process.
        accumulate: Steps whose gradients make one update.
        optimizer: `adamw` or `sgd`.
        learning_rate: The highest one of the schedule.
        lr_batch: Clips an update that learning_rate is meant for; others scale it linearly. None
            takes it as it is.
        backbone_lr: Factor for the backbone's own weights, not those of PEM and TM.
        fc_lr5: TSM's groups: classifier 5 times (its bias 10 times), other biases twice the rate.
        schedule: `one_cycle`, `cosine` or `steps`.
        lr_steps: Epochs at which `steps` divides the rate by 10.
        warmup_epochs: Epochs in which `cosine` and `steps` rise from a tenth.
        momentum: SGD's.
        weight_decay: On weights of convolutions and linear layers only.
        clip_norm: Largest norm of the gradient; 0 does not limit it.
        batch_norm: `train`; `partial` freezes all but the first (TSN's partial BN); `frozen`.
        freeze_stem: What comes before the first temporal unit keeps its weights: a third less work
            for EfficientNet-Lite0, and less to overfit.
        ema: Decay of the mean of the weights that is validated and kept; 0 takes the weights.
        precision: `auto` is bf16 on a GPU that can, else fp32.
        compile: Compile the model (torch.compile).
        validate_every: Epochs between two validations.
        dropout: Before the classifier.
        label_smoothing: Of the cross-entropy.
        class_weights: Weigh classes by the inverse of their number of clips.
        td_loss: λ of eq. 6; 0 switches the TD loss off.
        td_ratio: Share of channels in the TD loss.
        td_blocks: Stages 1..4 (res2..res5) whose last block the TD loss reads.
        td_after: The TD loss reads the temporal module's output, or else its input.
        pre_roll: Share of the batches that begin with frames of other clips.
        init: `imagenet`, a URL or a file of published weights, or a TDRL checkpoint; None from
            scratch.
        seed: Of weights, order, augmentation and dropout.
        workers: Loader processes; `auto` takes the cores but one.
        exclude: Classes of the data to leave out.
    """

    backbone: str
    temporal: Temporal = "tsm"
    pem: bool = True
    pem_first: bool = True
    reduction: int = 16
    start_motion: StartMotion = "zeros"
    shift_div: int = 8
    form: Form = "causal"
    head: Head = "none"
    height_px: int = 224
    width_px: int = 224
    crop: Crop = "full"
    num_segments: int = 8
    window_s: float | None = None
    consensus_len: int | None = None
    sampling: Sampling = "live"
    validation: Sampling = "segments"
    multi_scale_crop: bool = False
    flip: bool = False
    jitter: float = 0.0
    low_light: float = 0.0
    reverse: tuple[str, ...] = ()
    cache: str | None = None
    epochs: int = 30
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    lr_batch: int | None = None
    backbone_lr: float = 1.0
    fc_lr5: bool = False
    schedule: Schedule = "one_cycle"
    lr_steps: tuple[int, ...] = ()
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.02
    clip_norm: float = 20.0
    batch_norm: NormMode = "train"
    freeze_stem: bool = False
    ema: float = 0.0
    precision: Precision = "auto"
    compile: bool = False
    validate_every: int = 1
    dropout: float = 0.2
    label_smoothing: float = 0.0
    class_weights: bool = False
    td_loss: float = 2e-4
    td_ratio: float = 0.5
    td_blocks: tuple[int, ...] = (2, 3, 4)
    td_after: bool = True
    pre_roll: float = 0.5
    init: str | None = None
    seed: int = 0
    workers: Workers = "auto"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        self._check_ranges()
        self._check_schedule()
        if self.td_loss > 0 and self.num_segments < 2:
            raise ValueError("td_loss compares frames: set td_loss: 0 for num_segments 1")
        if self.td_loss > 0 and not self.td_blocks:
            raise ValueError("td_loss reads no block: set td_loss: 0, or td_blocks: [2, 3, 4]")
        if self.form == "lookahead" and self.pre_roll > 0:
            raise ValueError("pre_roll needs form causal; set pre_roll: 0 for lookahead")
        if self.head != "none" and self.pre_roll > 0:
            raise ValueError(f"head {self.head} begins with its clip; set pre_roll: 0")
        if self.freeze_stem and self.init is None:
            raise ValueError("freeze_stem keeps weights that init brings; give init or do without")
        self.unit()
        self.picture()
        self.contract(self.window_s or LONGEST_WINDOW_S)

    def _check_ranges(self) -> None:
        for names, text, fits in RANGES:
            for name in names:
                if not fits(getattr(self, name)):
                    raise ValueError(f"{name} must be {text}, got {getattr(self, name)}")
        if self.workers != "auto" and not self.workers >= 0:
            raise ValueError(f"workers must be auto or >= 0, got {self.workers}")
        for name in ("window_s", "lr_batch", "consensus_len"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")

    def _check_schedule(self) -> None:
        if bool(self.lr_steps) != (self.schedule == "steps"):
            raise ValueError(
                f"lr_steps are the epochs of schedule steps, got {list(self.lr_steps)} "
                f"with schedule {self.schedule}"
            )
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            raise ValueError(f"lr_steps must rise, got {list(self.lr_steps)}")
        wrong = [epoch for epoch in self.lr_steps if not 0 < epoch < self.epochs]
        if wrong:
            raise ValueError(f"lr_steps must lie within 1..{self.epochs - 1}, got {wrong[0]}")
        if self.warmup_epochs > 0 and self.schedule == "one_cycle":
            raise ValueError("one_cycle has its own warm-up; set warmup_epochs: 0")
        if not self.warmup_epochs < self.epochs:
            raise ValueError(
                f"warmup_epochs must be < epochs {self.epochs}, got {self.warmup_epochs}"
            )
        if self.validate_every > self.epochs:
            raise ValueError(
                f"validate_every must be <= epochs {self.epochs}, or no checkpoint is the best; "
                f"got {self.validate_every}"
            )
        if self.lr_batch is not None and self.optimizer != "sgd":
            raise ValueError("lr_batch scales the rate of sgd linearly; adamw takes it as it is")

    def unit(self) -> UnitConfig:
        """What stands at the entry of every residual branch.

        Raises:
            ValueError: There is no such unit.
        """
        return UnitConfig(
            temporal=self.temporal,
            pem=self.pem,
            pem_first=self.pem_first,
            form=self.form,
            reduction=self.reduction,
            shift_div=self.shift_div,
            start_motion=self.start_motion,
            tap_stages=self.td_blocks,
            tap_after=self.td_after,
        )

    def picture(self) -> PictureRule:
        """The model's picture.

        Raises:
            ValueError: It is too small.
        """
        return PictureRule(height_px=self.height_px, width_px=self.width_px, crop=self.crop)

    def contract(
        self, window_s: float, clip_lengths: ClipLengths | None = None
    ) -> SamplingContract:
        """How segments are sampled.

        Args:
            window_s: The window, seconds; where the recipe has none it follows from the clips.
            clip_lengths: Lengths of the training clips.

        Raises:
            ValueError: The sizes do not fit together.
        """
        return SamplingContract(
            num_segments=self.num_segments,
            window_s=window_s,
            consensus_len=self.consensus_len or self.num_segments,
            clip_lengths=clip_lengths,
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as checkpoints store it."""
        return asdict(self)
