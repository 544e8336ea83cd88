"""Many small students trained at once: Llama networks whose weights carry one more dimension.

Every weight is `s ...`, one slice a student, under the name that transformers gives it, so that a
slice is a LlamaForCausalLM checkpoint. A batched matrix product trains two hundred students in the
time of a few. They share nothing but the clock: each has its own data, batches and start.

With LoRA the base is shared and frozen; a student is its A and B alone, W + alpha/r B A.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from engine.core.rng import generator
from engine.core.shapes import Float, Int, Tensor
from engine.models.devices import is_accelerator
from engine.verifying.revthink import months
from engine.verifying.revthink.arms import (
    ARMS,
    END,
    PAD,
    START,
    UNKNOWN,
    Arm,
    Example,
    base_examples,
    sequences,
)
from engine.verifying.revthink.months import Cycle, Question
from engine.verifying.revthink.objective import is_target, sequence_means, token_losses

State = dict[str, Tensor]

WORDS = (PAD, START, END, UNKNOWN, *months.words())
INDEX = {word: index for index, word in enumerate(WORDS)}
EMBEDDING = "model.embed_tokens.weight"
SEQUENCES_A_STEP = 48
LONGEST_ANSWER = 10
BASE = "base"
LORA_SCALE = 2.0  # alpha 32 over rank 16
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """Sizes of a student; the defaults make 0.23 million parameters."""

    width: int = 96
    layers: int = 2
    heads: int = 4
    inner: int = 256
    vocabulary: int = len(WORDS)
    theta: float = 10_000.0
    eps: float = 1e-5

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights, as transformers names them; the head is tied."""
        d, inner = self.width, self.inner
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocabulary, d)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            shapes |= {f"{at}.self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
            shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, d) for name in ("gate", "up")}
            shapes[f"{at}.mlp.down_proj.weight"] = (d, inner)
            shapes |= {
                f"{at}.{name}_layernorm.weight": (d,) for name in ("input", "post_attention")
            }
        return shapes | {"model.norm.weight": (d,)}


@dataclass(frozen=True)
class Plan:
    """One student: its method, the share of the questions it is asked, and its seed.

    The seed draws the held-out relations, the surface of the texts, the batches and the start.
    """

    arm: str
    fraction: float
    seed: int
    lora: bool = False
    corrupt: float | None = None
    filtered: bool | None = None
    cycle: Cycle = months.YEAR

    @property
    def method(self) -> Arm:
        """The arm, with another share of wrong chains or no filter where the plan says so."""
        arm = ARMS[self.arm]
        return replace(
            arm,
            corrupt=arm.corrupt if self.corrupt is None else self.corrupt,
            filtered=arm.filtered if self.filtered is None else self.filtered,
        )

    @property
    def name(self) -> str:
        return f"{self.arm}{'-lora' if self.lora else ''}-{self.fraction:g}-{self.seed}"

    @property
    def split(self) -> months.Split:
        return months.split(self.seed, self.cycle)

    def questions(self) -> tuple[Question, ...]:
        """The source questions; equal for all arms of one seed and fraction."""
        return self.split.asked(self.fraction)


# ---------------------------------------------------------------------- texts


def encode(prompt: str, target: str = "") -> tuple[list[int], int]:
    """Tokens of a prompt with its target and the end, and the length of the prompt."""
    head = [INDEX[START], *(index_of(word) for word in prompt.split())]
    tail = [*(index_of(word) for word in target.split()), INDEX[END]] if target else []
    return head + tail, len(head)


def index_of(word: str) -> int:
    return INDEX.get(word, INDEX[UNKNOWN])


def decode(ids: Sequence[int]) -> str:
    """The words up to the end."""
    words = [WORDS[index] for index in ids]
    return " ".join(words[: words.index(END)] if END in words else words)


@dataclass(frozen=True)
class Data:
    """The sequences of one student, padded, by row, and which rows go into which step."""

    ids: Int[Tensor, "rows n"]
    prompt_len: Int[Tensor, "rows"]
    length: Int[Tensor, "rows"]
    order: Int[Tensor, "steps b"]


def table(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Padded tokens, prompt lengths and lengths of these examples."""
    coded = [encode(e.prompt, e.target) for e in examples]
    longest = max(len(ids) for ids, _ in coded)
    rows = [ids + [INDEX[PAD]] * (longest - len(ids)) for ids, _ in coded]
    lengths = [len(ids) for ids, _ in coded]
    return torch.tensor(rows), torch.tensor([n for _, n in coded]), torch.tensor(lengths)


def data_of(plan: Plan, steps: int, questions_a_step: int | None = None) -> Data:
    """Sequences and batches of a student.

    A step holds 48 sequences, all tasks of 48/k questions (equal budget), or all tasks of a fixed
    number of questions (equal passes over the questions, the paper's protocol).
    """
    if plan.arm == BASE:
        return _base_data(plan, steps)
    per_question = sequences(plan.method, plan.questions(), plan.seed)
    tasks, variants = len(plan.method.tasks), months.VARIANTS
    flat = [example for question in per_question for task in question for example in task]
    count = questions_a_step or SEQUENCES_A_STEP // tasks
    draw = generator(plan.seed, "batches", plan.arm)
    if plan.method.joint:
        chosen = _passes(len(per_question), steps * count, draw).view(steps, count, 1)
        which = torch.arange(tasks) + chosen * tasks
    else:
        which = _passes(len(per_question) * tasks, steps * count * tasks, draw).view(steps, -1, 1)
    surface = torch.randint(variants, which.shape, generator=draw)
    return Data(*table(flat), (which * variants + surface).view(steps, -1))


def _base_data(plan: Plan, steps: int) -> Data:
    """Everything about days and colours, both ways, and of the months only their order."""
    draw = generator(plan.seed, "batches", BASE)
    flat = base_examples(plan.seed)
    return Data(*table(flat), _passes(len(flat), steps * SEQUENCES_A_STEP, draw).view(steps, -1))


def _passes(size: int, count: int, draw: torch.Generator) -> Int[Tensor, "count"]:
    """Indices pass after pass, each in an order of its own."""
    passes = -(-count // size)
    return torch.rand(passes, size, generator=draw).argsort(1).flatten()[:count]


# ---------------------------------------------------------------------- the network


def fresh(shape: Shape, seeds: Sequence[int]) -> State:
    """Random weights as transformers starts a Llama: normal with deviation 0.02, norms at 1."""
    draws = [generator(seed, "start") for seed in seeds]
    weights = {}
    for name, size in shape.sizes().items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(len(seeds), *size)
        else:
            weights[name] = torch.stack([torch.randn(size, generator=d) * 0.02 for d in draws])
    return weights


def lora_start(shape: Shape, seeds: Sequence[int], rank: int) -> State:
    """A random, B zero, for every projection: the students start as the base."""
    weights, draws = {}, [generator(seed, "lora") for seed in seeds]
    for name, size in shape.sizes().items():
        if name.split(".")[-2] in LORA_TARGETS:
            down = [torch.randn(rank, size[1], generator=d) / math.sqrt(size[1]) for d in draws]
            weights[f"{name}.lora_A"] = torch.stack(down)
            weights[f"{name}.lora_B"] = torch.zeros(len(seeds), size[0], rank)
    return weights


def with_lora(base: Mapping[str, Tensor], lora: Mapping[str, Tensor], scale: float) -> State:
    """Weights of every student: the base's own, plus scale B A where there is one."""
    count = len(next(iter(lora.values())))
    merged = {}
    for name, weight in base.items():
        if f"{name}.lora_A" in lora:
            change = torch.bmm(lora[f"{name}.lora_B"], lora[f"{name}.lora_A"])
            merged[name] = weight + scale * change
        else:
            merged[name] = weight.expand(count, *weight.shape)
    return merged


def forward(
    weights: Mapping[str, Tensor], ids: Int[Tensor, "s b n"], shape: Shape, *, half: bool = False
) -> Float[Tensor, "s b n v"]:
    """Logits of every student for its own batch. Padding stands on the right, so the causal mask
    is all that is needed. `half` multiplies weights in bfloat16 and leaves the rest as it is."""
    s, b, n = ids.shape
    table = weights[EMBEDDING]
    offset = torch.arange(s, device=ids.device)[:, None, None] * shape.vocabulary
    x = table.reshape(s * shape.vocabulary, -1)[ids + offset]
    rotate = _rotary(n, shape, x)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        h = _norm(x, weights[f"{at}.input_layernorm.weight"], shape.eps)
        q, k, v = (
            _linear(h, weights[f"{at}.self_attn.{name}_proj.weight"], half) for name in "qkv"
        )
        q, k, v = (y.view(s * b, n, shape.heads, -1).transpose(1, 2) for y in (q, k, v))
        q, k = rotate(q), rotate(k)
        mixed = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(s, b, n, -1)
        x = x + _linear(mixed, weights[f"{at}.self_attn.o_proj.weight"], half)
        h = _norm(x, weights[f"{at}.post_attention_layernorm.weight"], shape.eps)
        gate = F.silu(_linear(h, weights[f"{at}.mlp.gate_proj.weight"], half))
        inner = gate * _linear(h, weights[f"{at}.mlp.up_proj.weight"], half)
        x = x + _linear(inner, weights[f"{at}.mlp.down_proj.weight"], half)
    return _linear(_norm(x, weights["model.norm.weight"], shape.eps), table, half)


def _linear(x: Float[Tensor, "s b n d"], weight: Float[Tensor, "s o d"], half: bool) -> Tensor:
    rows = x.flatten(1, 2)
    if half:
        # CPUs with units for it are four times as fast at this; autocast would lose that again.
        product = torch.bmm(rows.bfloat16(), weight.bfloat16().mT).float()
    else:
        product = torch.bmm(rows, weight.mT)
    return product.view(*x.shape[:3], -1)


def _norm(x: Float[Tensor, "s b n d"], weight: Float[Tensor, "s d"], eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=eps) * weight[:, None, None]


def _rotary(n: int, shape: Shape, like: Tensor) -> Callable[[Tensor], Tensor]:
    half = shape.width // shape.heads // 2
    rates = shape.theta ** (-torch.arange(half, device=like.device) / half)
    angles = torch.arange(n, device=like.device)[:, None] * torch.cat([rates, rates])
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        return (x * cos + turned * sin).to(x.dtype)

    return rotate


# ---------------------------------------------------------------------- training


@dataclass(frozen=True)
class Schedule:
    """Steps, rate and budget of a training."""

    steps: int = 800
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 40
    questions_a_step: int | None = None

    def rate(self, progress: float, step: int) -> float:
        """Cosine from the full rate to a fiftieth, after a warm-up; by the share that is done."""
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fall


@dataclass
class Fleet:
    """Students of equal batch size, trained in step. `base` makes them LoRA students.

    `half` multiplies in bfloat16 on a CPU; a GPU always does. Weights and sums stay in float32.
    """

    plans: Sequence[Plan]
    schedule: Schedule
    shape: Shape = Shape()
    base: Mapping[str, Tensor] | None = None
    rank: int = 16
    device: str = "cpu"
    half: bool = False
    step: int = 0
    parameters: State = field(init=False)

    def __post_init__(self) -> None:
        seeds = [plan.seed for plan in self.plans]
        start = fresh(self.shape, seeds)
        if self.base is not None:
            start = lora_start(self.shape, seeds, self.rank)
            self.base = {name: tensor.to(self.device) for name, tensor in self.base.items()}
        self.parameters = {
            name: tensor.to(self.device).requires_grad_() for name, tensor in start.items()
        }
        self._optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=self.schedule.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.schedule.weight_decay,
        )
        self._load_data()

    def _load_data(self) -> None:
        """All sequences on the device, the rows of shorter students filled up with padding."""
        steps, questions = self.schedule.steps, self.schedule.questions_a_step
        data = [data_of(plan, steps, questions) for plan in self.plans]
        most = max(len(d.ids) for d in data)
        longest = max(d.ids.shape[1] for d in data)
        pad = INDEX[PAD]
        ids = [
            F.pad(d.ids, (0, longest - d.ids.shape[1], 0, most - len(d.ids)), value=pad)
            for d in data
        ]
        lengths = [
            F.pad(torch.stack([d.prompt_len, d.length], 1), (0, 0, 0, most - len(d.ids)))
            for d in data
        ]
        self._ids = torch.stack(ids).to(self.device)
        self._lengths = torch.stack(lengths).to(self.device)
        self._order = torch.stack([d.order for d in data], 1).to(self.device)
        self._row = torch.arange(len(data), device=self.device)[:, None]

    @property
    def sequences_a_step(self) -> int:
        return int(self._order.shape[-1])

    def weights(self) -> State:
        """The weights of all students, differentiable in what is trained."""
        if self.base is None:
            return self.parameters
        return with_lora(self.base, self.parameters, LORA_SCALE)

    def advance(self, progress: float | None = None) -> Float[Tensor, "s"]:
        """One step of all students; gives the loss of each, still on the device.

        `progress` places the learning rate where a clock ends the training before the steps do.
        """
        done = self.step / self.schedule.steps if progress is None else progress
        rows = self._order[self.step]
        ids, lengths = self._ids[self._row, rows], self._lengths[self._row, rows]
        # on a CPU padding costs time; elsewhere reading the length would make the host wait
        if not is_accelerator(self.device):
            ids = ids[..., : int(lengths[..., 1].max())]
        kind = torch.device(self.device).type
        half = torch.autocast(kind, torch.bfloat16, enabled=is_accelerator(self.device))
        with torch.enable_grad(), half:
            logits = forward(self.weights(), ids, self.shape, half=self.half).float()
            losses = token_losses(logits, ids)
            counted = is_target(lengths[..., 0], lengths[..., 1], ids.shape[-1])[..., 1:]
            loss = sequence_means(losses, counted).mean(-1)
            # A sum, so that no student's step depends on who trains beside it.
            gradients = torch.autograd.grad(loss.sum(), list(self.parameters.values()))
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(done, self.step)
        self._optimizer.step()
        self.step += 1
        return loss.detach()

    def state(self, index: int) -> State:
        """The weights of one student on the CPU, LoRA merged, as a Llama checkpoint names them."""
        with torch.no_grad():
            return {name: w[index].detach().cpu().clone() for name, w in self.weights().items()}


# ---------------------------------------------------------------------- answers


@torch.no_grad()
def answer(
    weights: Mapping[str, Tensor],
    ids: Int[Tensor, "s b n"],
    shape: Shape,
    most: int = LONGEST_ANSWER,
) -> Int[Tensor, "s b m"]:
    """The most probable continuation of prompts of equal length, word by word, to the end."""
    end, prompt = INDEX[END], ids.shape[-1]
    is_done = torch.zeros(ids.shape[:2], dtype=torch.bool, device=ids.device)
    for _ in range(most):
        following = forward(weights, ids, shape)[..., -1, :].argmax(-1)
        following = torch.where(is_done, end, following)
        ids = torch.cat([ids, following[..., None]], -1)
        is_done |= following == end
        if bool(is_done.all()):
            break
    return ids[..., prompt:]


def prompts(texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Prompts of equal length as tokens."""
    return torch.tensor([encode(text)[0] for text in texts])


def surface(seed: int, index: int) -> int:
    """The surface variant in which a student of this seed is asked the question of this index."""
    return random.Random(f"revthink asked {seed} {index}").randrange(months.SURFACES)
