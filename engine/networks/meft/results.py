"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.named_file import NamedFile, TextFile
from engine.core.reversible import RoundTrip
from engine.models.tensor_file import TensorFile


@dataclass(frozen=True)
class Start:
    """How near the reversible network begins to the pre-trained one at these scales.

    `agreement` is the mean cosine of the pooled outputs; `accuracy` is that of the untouched head
    on the task the network knows, where there is one. `inverse` and `anchored` are the relative
    errors of the streams before each layer once walked back to, without anchors and with them.
    """

    lam: float
    beta: float
    agreement: float
    accuracy: float | None
    inverse: tuple[float, ...] = ()
    anchored: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """Of one layer: relative error of the streams before it once walked back to, and of the
    gradients of its adapters, without anchors and with them."""

    layer: int
    inverse: float
    anchored_inverse: float
    gradient: float
    anchored_gradient: float


@dataclass(frozen=True)
class ArmCost:
    """A training step: kept bytes, peak of activations, and all that training holds at its peak
    (weights, gradients, moments of Adam, activations). `is_computed` says that it was counted on
    shapes alone."""

    arm: str
    title: str
    kept_bytes: int
    peak_bytes: int
    total_bytes: int
    flops: int
    trained: int
    is_computed: bool


@dataclass(frozen=True)
class Reversed:
    """The aha: the start against lambda, and what walking back loses."""

    model: str
    variant: int
    lam: float
    beta: float
    layers: int
    anchor: int | None
    suggested: int
    original_accuracy: float | None = None
    starts: tuple[Start, ...] = ()
    errors: tuple[LayerError, ...] = ()
    costs: tuple[ArmCost, ...] = ()
    trip: RoundTrip | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """Bytes of every arm at real scale; `fits` names those within the memory asked for."""

    scale: str
    batch: int
    tokens: int
    gibibytes: float
    costs: tuple[ArmCost, ...] = ()
    fits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """One arm's training: loss of each step, accuracy before and after on held-out examples."""

    arm: str
    title: str
    trained: int
    kept_bytes: int
    losses: tuple[float, ...] = ()
    before: float = 0.0
    accuracy: float | None = None


@dataclass(frozen=True)
class Predicted:
    """What a network says of one text."""

    text: str
    label: str
    probability: float


@dataclass(frozen=True)
class Tuned:
    """Fine-tuning: curves, the adapters as files, and the largest difference of logits once these
    files were read back into a fresh copy of the model. `lora` are the files of the LoRA arm as
    PEFT reads them, with its head beside them."""

    task: str
    classes: tuple[str, ...]
    examples: int
    held_out: int
    curves: tuple[Curve, ...] = ()
    adapter: TensorFile | None = None
    adapter_config: TextFile | None = None
    read_back: float | None = None
    lora: tuple[NamedFile, ...] = ()
    predictions: tuple[Predicted, ...] = ()


@dataclass(frozen=True)
class Answered:
    """Texts through adapters that were exported before."""

    model: str
    classes: tuple[str, ...]
    predictions: tuple[Predicted, ...]
