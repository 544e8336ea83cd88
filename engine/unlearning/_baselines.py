"""Unlearning by training: what the edits without training are held against.

Each way takes a network and the sets, trains a copy, and yields after every step, so it can be
stopped at any; what it gives is the copy, ready to be judged. Settings are those of the published
codes but for the number of epochs, which is 1 unless told, as the networks and data are small:
the code of SSD takes 5 for fine-tuning and 3 for amnesiac unlearning.

| way | what it descends on | from |
|---|---|---|
| `retrain` | the retain set alone, from new weights | the reference (EU, RewoD) |
| `finetune` | the retain set (CF: fewer steps, another rate) | Golatkar et al. |
| `amnesiac` | the forget set with random wrong labels, and the retain set | Graves et al. |
| `bad_teacher` | an untrained teacher on the forget set, the original on the rest | Chundawat |
| `unsir` | noise that raises the class's loss, labelled as it; then the retain set | Tarun et al. |
| `scrub` | away from the original on the forget set, towards it on the rest | Kurmanji et al. |
| `fisher_noise` | nothing: noise where the retain set does not look | Golatkar et al. |
"""

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.precision import at_home
from engine.core.shapes import Float, Int, Tensor
from engine.unlearning._importance import Provenance, Streaming, stream
from engine.unlearning._learning import Course, Training, epoch_order, training
from engine.unlearning._losses import Batch, Network, logits_of
from engine.unlearning._samples import Samples

R = TypeVar("R")
Trained: TypeAlias = Generator[None, None, nn.Module]
CORRECTIVE_RATE, SCRUB_RATE, TEMPERATURE = 0.025, 0.0025, 4.0
FORGOTTEN_ROW = 1e-4  # variance of the head's row of a class that is forgotten whole


@dataclass(frozen=True, eq=False)
class Sets:
    """What is kept and what is forgotten, and the seed of all draws."""

    retain: Samples
    forget: Samples
    seed: int = 0

    @property
    def classes(self) -> int:
        """Number of labels, at least."""
        return int(torch.cat([self.retain.labels, self.forget.labels]).max()) + 1


Way: TypeAlias = Callable[[nn.Module, Sets], Trained]


def trainable(model: nn.Module) -> nn.Module:
    """A copy with weights of its own, to be trained."""
    return copy.deepcopy(model).requires_grad_(True)


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """The same network with new random weights; torch's own generator stays as it is.

    They are drawn on the CPU, so that a seed is the same network on every device.
    """
    device = next(model.parameters()).device
    fresh = _copy_here(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.generator(seed, "untrained").initial_seed() % 2**63))
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return fresh.to(device).eval().requires_grad_(False)


def _copy_here(model: nn.Module) -> nn.Module:
    """A copy on the CPU, for which the host waits once."""
    tensors = [*model.parameters(), *model.buffers()]
    copies = [tensor.clone() for tensor in at_home(tensors)]
    memo: dict[int, object] = {
        id(old): nn.Parameter(new, requires_grad=old.requires_grad)
        if isinstance(old, nn.Parameter)
        else new
        for old, new in zip(tensors, copies, strict=True)
    }
    return copy.deepcopy(model, memo)


def retrain(
    model: nn.Module, sets: Sets, course: Course | None = None, *, last: int = 0
) -> Trained:
    """From new weights on the retain set: what unlearning wants to be as good as.

    With `last`, only so many layers from the end are new and trained (EU-k).
    """
    fresh = untrained(model, sets.seed).requires_grad_(True)
    held = only_last(fresh, last)
    for module, old in zip(held, only_last(trainable(model), last), strict=True):
        module.load_state_dict(old.state_dict())
    for _ in Training(fresh, sets.retain, course or Course(), sets.seed, held).run():
        yield
    return _done(fresh)


def only_last(model: nn.Module, count: int) -> tuple[nn.Module, ...]:
    """Lets only the last `count` layers with what follows them be trained; gives the others.

    0 trains all. Layers are convolutions and linear ones, in the order they were made.
    """
    parts = [m for m in model.modules() if not [*m.children()] and [*m.parameters()]]
    layers = [i for i, m in enumerate(parts) if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    held = tuple(parts[: layers[-count]]) if 0 < count <= len(layers) else ()
    for module in held:
        module.requires_grad_(False)
    return held


def finetune(model: nn.Module, sets: Sets, *, rate: float = 0.02, epochs: int = 1) -> Trained:
    """On the retain set: SGD, momentum 0.9, weight decay 5e-4, batch 128."""
    student = trainable(model)
    optimizer = _sgd(student, rate)
    for batch in _epochs(sets.retain, 128, sets.seed, epochs):
        _descend(student, optimizer, cross_entropy(student, batch))
        yield
    return _done(student)


def amnesiac(model: nn.Module, sets: Sets, *, rate: float = 1e-4, epochs: int = 1) -> Trained:
    """Random wrong labels for the forget set, among all retain data: Adam, batch 128."""
    draw = rng.generator(sets.seed, "amnesiac")
    shift = torch.randint(1, sets.classes, (len(sets.forget),), generator=draw)
    wrong = sets.forget.labelled((sets.forget.labels + shift) % sets.classes)
    student = trainable(model)
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    for batch in _epochs(sets.retain.joined(wrong), 128, sets.seed, epochs):
        _descend(student, optimizer, cross_entropy(student, batch))
        yield
    return _done(student)


def bad_teacher(model: nn.Module, sets: Sets, *, share: float = 0.3, rate: float = 1e-4) -> Trained:
    """Towards an untrained network on the forget set and the original on a share of the rest.

    Adam, batch 256, one epoch. The loss divides by samples and classes, as published.
    """
    kept = sets.retain.some(max(1, round(share * len(sets.retain))), sets.seed, "bad teacher")
    student, bad = trainable(model), untrained(model, sets.seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    both = kept.joined(sets.forget)
    is_forget = torch.arange(len(both)) >= len(kept)
    order = epoch_order(len(both), sets.seed, 0)
    for places in order.split(256):
        inputs, _ = both.batch(places)
        with torch.no_grad():
            taught = logits_of(model(inputs)), logits_of(bad(inputs))
        student.train()
        loss = bad_teacher_loss(logits_of(student(inputs)), *taught, is_forget[places].float())
        _descend(student, optimizer, loss)
        yield
    return _done(student)


def unsir(model: nn.Module, sets: Sets, *, images: int = 32, each: int = 500) -> Trained:
    """Impair with noise that the network finds least like the class, then repair.

    Noise: Adam 0.1, 25 steps on -CE + 0.1 mean sum noise^2. One epoch each of impairing (80 copies
    of the noise with the class's label, and 500 pictures of every other class) and repairing.
    """
    label = _only_class(sets.forget)
    inputs, _ = sets.forget.batch(slice(0, 1))
    noise = rng.noise((images, *inputs.shape[1:]), rng.generator(sets.seed, "unsir"))
    noise.requires_grad_(True)
    targets, climber = torch.full((images,), label), torch.optim.Adam([noise], lr=0.1)
    for _ in range(25):
        size = noise.square().flatten(1).sum(1).mean()
        loss = 0.1 * size - F.cross_entropy(logits_of(model(noise)), targets)
        climber.zero_grad()
        loss.backward()
        climber.step()
        yield
    student, kept = trainable(model), _each_class(sets.retain, each, sets.seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    for batch in _with_noise(kept, noise.detach(), label, sets.seed):
        _descend(student, optimizer, cross_entropy(student, batch))
        yield
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    for batch in _epoch(kept, 128, sets.seed):
        _descend(student, optimizer, cross_entropy(student, batch))
        yield
    return _done(student)


# ---------------------------------------------------------------------- noise


def fisher_noise(
    model: nn.Module, sets: Sets, *, alpha: float = 1e-6, samples: int = 1000
) -> Trained:
    """Fisher forgetting: each weight gets noise that is the stronger the less it matters.

    The variance is alpha min(1 / (F + 1e-8), 1e3), averaged over inputs; F is the Fisher of the
    retain set with labels that the network itself gives, the sum over classes of p(y) g_y^2. Ten
    times as strong on the last layer and on tensors of one axis, where the head's bound is 1e2 and
    the row of a forgotten class becomes noise alone. Golatkar et al. (arXiv 1911.04933).
    """
    few = sets.retain.some(samples, sets.seed, "fisher noise")
    with torch.no_grad():
        classes = logits_of(model(few.batch(slice(0, 1))[0])).shape[1]
    fisher = yield from _model_fisher(model, few, classes)
    gone = sets.forget.labels.unique().tolist()
    noisy, draw = copy.deepcopy(model), rng.generator(sets.seed, "fisher noise, draw")
    for name, weight in noisy.named_parameters():
        is_head = weight.shape[0] == classes
        variance = _variance(fisher[name], alpha, is_head)
        if is_head and len(gone) == 1 and not bool((sets.retain.labels == gone[0]).any()):
            weight.data[gone[0]], variance[gone[0]] = 0, FORGOTTEN_ROW
        if is_head or weight.ndim == 1:
            variance *= 10
        weight.data += variance.sqrt() * rng.noise(weight.shape, draw)
    return _done(noisy)


def _model_fisher(
    model: nn.Module, samples: Samples, classes: int
) -> Generator[None, None, dict[str, Tensor]]:
    """Sum over classes of p(y) g_y^2, mean over samples, for each weight."""

    def every_label() -> Iterator[Batch]:
        for inputs, labels in samples.batches(64):
            for label in range(classes):
                yield inputs, torch.full_like(labels, label)

    how = Streaming(model, _expected, Provenance("any", "expected cross-entropy"))
    found = yield from _silently(stream(how, every_label()))
    # A term is a sample with one label, so the mean over samples is so many times the mean.
    return {name: classes * value for name, value in found.values.items()}


def _silently(steps: Generator[object, None, R]) -> Generator[None, None, R]:
    """The result of a part; yields after each of its steps, and nothing of what it tells."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        yield


def _expected(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """Cross-entropy times the root of the label's probability: squared, its gradient is p g^2."""
    inputs, labels = batch
    losses = F.cross_entropy(logits_of(model(inputs)), labels, reduction="none")
    return losses * (-losses.detach() / 2).exp()


def _variance(fisher: Tensor, alpha: float, is_head: bool) -> Tensor:
    spread = (1 / (fisher + 1e-8)).clamp(max=1e2 if is_head else 1e3)
    if spread.ndim > 1:
        spread = spread.mean(1, keepdim=True).expand_as(spread).clone()
    return alpha * spread


# ---------------------------------------------------------------------- corrective unlearning


def corrective_rate(step: int, steps: int, base: float = CORRECTIVE_RATE) -> float:
    """The learning rate before a step: a short rise, then a line towards a fifth.

    With w = steps // 100:  (k + 1) / (w + 1) for k < w, then 1 - (k - w) / (1.25 steps).
    """
    warmup = steps // 100
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    return base * (1 - (step - warmup) / (1.25 * steps))


def catastrophic(
    model: nn.Module,
    sets: Sets,
    *,
    rate: float = CORRECTIVE_RATE,
    steps: int = 150,
    batch: int = 128,
    last: int = 0,
) -> Trained:
    """CF: go on training on what was not flagged, and hope that the rest is forgotten.

    With `last`, only so many layers from the end are trained (CF-k).
    """
    student = trainable(model)
    held = only_last(student, last)
    optimizer = _sgd(student, rate)
    for step, one in enumerate(_endless(sets.retain, batch, sets.seed, steps)):
        _set_rate(optimizer, corrective_rate(step, steps, rate))
        _descend(student, optimizer, cross_entropy(student, one, held))
        yield
    return _done(student)


def scrub(
    model: nn.Module,
    sets: Sets,
    *,
    alpha: float = 0.001,
    rate: float = SCRUB_RATE,
    ascents: int = 20,
    steps: int = 180,
    batch: int = 128,
) -> Trained:
    """Ascent on the flagged samples and descent on the rest, epoch by epoch in turn.

    Ascent ends once `ascents` steps of any kind are made; the run ends after `steps`.
    """
    student = trainable(model)
    optimizer = _sgd(student, rate)
    made = epoch = 0
    while made < steps:
        parts = [(sets.forget, -1)] if made < ascents else []
        for samples, sign in [*parts, (sets.retain, 1)]:
            for one in _epoch(samples, batch, sets.seed + epoch):
                if made >= steps or (sign < 0 and made >= ascents):
                    break
                inputs, labels = one
                with torch.no_grad():
                    taught = logits_of(model(inputs))
                student.train()
                _set_rate(optimizer, corrective_rate(made, steps, rate))
                loss = scrub_loss(logits_of(student(inputs)), taught, labels, alpha)
                _descend(student, optimizer, sign * loss)
                made += 1
                yield
        epoch += 1
    return _done(student)


def distillation(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float = TEMPERATURE
) -> Float[Tensor, ""]:
    """KL(softmax(teacher / T) || softmax(student / T)) T^2 / b."""
    pair = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    return F.kl_div(*pair, reduction="sum") * temperature**2 / len(student)


def scrub_loss(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    alpha: float,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """CE + alpha KD; the ascent takes its negative."""
    return F.cross_entropy(student, labels) + alpha * distillation(student, teacher, temperature)


def bad_teacher_loss(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    untaught: Float[Tensor, "b k"],
    is_forget: Float[Tensor, " b"],
) -> Float[Tensor, ""]:
    """KL to the mix of both teachers, divided by samples and classes ("mean")."""
    share = is_forget[:, None]
    target = share * untaught.softmax(1) + (1 - share) * teacher.softmax(1)
    return F.kl_div(student.log_softmax(1), target, reduction="none").mean()


# ---------------------------------------------------------------------- steps


def cross_entropy(
    model: nn.Module, batch: Batch, held: Sequence[nn.Module] = ()
) -> Float[Tensor, ""]:
    """Mean over the batch, of a network in training; what is held stays as it is."""
    training(model, held)
    return F.cross_entropy(logits_of(model(batch[0])), batch[1])


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _done(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def _sgd(model: nn.Module, rate: float) -> torch.optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=5e-4)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _epoch(samples: Samples, size: int, seed: int) -> Iterator[Batch]:
    """All samples once in random order; one sample alone is no batch for batch normalisation."""
    for places in epoch_order(len(samples), seed, 0).split(size):
        if len(places) > 1 or len(samples) == 1:
            yield samples.batch(places)


def _epochs(samples: Samples, size: int, seed: int, count: int) -> Iterator[Batch]:
    """Several epochs, each in an order of its own."""
    for epoch in range(count):
        yield from _epoch(samples, size, seed + epoch)


def _endless(samples: Samples, size: int, seed: int, steps: int) -> Iterator[Batch]:
    made, epoch = 0, 0
    while made < steps:
        for batch in _epoch(samples, size, seed + epoch):
            if made < steps:
                yield batch
                made += 1
        epoch += 1


def _only_class(samples: Samples) -> int:
    classes = samples.labels.unique().tolist()
    if len(classes) != 1:
        raise BadInput(
            "UNSIR forgets one whole class; this forget set has several.",
            "Choose another way, or forget a class.",
        )
    return int(classes[0])


def _each_class(samples: Samples, each: int, seed: int) -> Samples:
    shuffled = samples.shuffled(seed, "unsir, each class")
    parts = [(shuffled.labels == c).nonzero().flatten()[:each] for c in samples.labels.unique()]
    return shuffled.take(torch.cat(parts))


def _with_noise(kept: Samples, noise: Tensor, label: int, seed: int) -> Iterator[Batch]:
    """Batches of 32 of the kept pictures and of 80 copies of the noise, in random order."""
    count = len(kept) + 80 * len(noise)
    for places in epoch_order(count, seed, 1).split(32):
        real, false = places[places < len(kept)], places[places >= len(kept)]
        inputs, labels = kept.batch(real)
        copies = noise[(false - len(kept)) % len(noise)]
        yield (
            torch.cat([inputs, copies]),
            torch.cat([labels, torch.full((len(false),), label)]),
        )


WAYS: Mapping[str, Way] = {
    "fine-tuning": finetune,
    "amnesiac": amnesiac,
    "bad teacher": bad_teacher,
    "UNSIR": unsir,
    "SCRUB": scrub,
    "CF": catastrophic,
    "Fisher forgetting": fisher_noise,
}
"""Ways that are made live; retraining is one too, and the slowest."""
