"""Sums over samples of |gradient|^p, by three engines that agree and one for whole batches.

| engine | how | needs |
|---|---|---|
| `loop` | one sample after the other | nothing; works for every model |
| `hooks` | one backward; a layer's gradients from its input and output | the largest layer |
| `vmap` | `vmap(grad(functional_call))` | all weights x samples; no control flow on data |
| `whole` | one backward of the batch's mean loss | the authors' unit: batches, not samples |

For a linear layer that sees each sample once, the sum needs no gradient of any sample: with inputs
a and output gradients g it is sum_n |g_no|^p |a_nd|^p, one product of two matrices.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from engine.core.shapes import Float, Shaped, Tensor
from engine.unlearning._losses import Batch, Loss, Network

Engine = Literal["loop", "hooks", "vmap"]
ENGINES: tuple[Engine, ...] = ("loop", "hooks", "vmap")
Parameters: TypeAlias = Mapping[str, Tensor]
Add: TypeAlias = Callable[[str, Tensor], None]
"""Takes the name of a parameter and a sum of |gradient|^p over some samples."""

LARGE = 2_000_000  # weights
MOST_COPIES = 512_000_000  # bytes that copies of all gradients may take


@dataclass(frozen=True)
class Ask:
    """What is summed: of which model, for which of its parameters, by which loss and power."""

    model: nn.Module
    parameters: Parameters
    loss: Loss
    power: int = 2


# ---------------------------------------------------------------------- loop and whole


def loop(ask: Ask, batch: Batch, add: Add) -> None:
    """One sample after the other."""
    for at in range(len(batch[0])):
        _backward(ask, tuple(part[at : at + 1] for part in batch), add, of_mean=False)


def whole(ask: Ask, batch: Batch, add: Add) -> None:
    """|gradient of the batch's mean loss|^p, as the authors' code of SSD takes it."""
    _backward(ask, batch, add, of_mean=True)


def _backward(ask: Ask, batch: Batch, add: Add, *, of_mean: bool) -> None:
    with _handing_over(ask, add), torch.enable_grad():
        losses = ask.loss(ask.model, batch)
        (losses.mean() if of_mean else losses.sum()).backward()


@contextmanager
def _handing_over(ask: Ask, add: Add) -> Iterator[None]:
    """Each gradient is taken up and dropped as it comes, so that only one of them is held."""
    before = {name: parameter.requires_grad for name, parameter in ask.parameters.items()}
    handles = []
    for name, parameter in ask.parameters.items():

        def take(weight: Tensor, name: str = name) -> None:
            if weight.grad is not None:
                add(name, _powered(weight.grad, ask.power))
            weight.grad = None

        parameter.requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(take))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in ask.parameters.items():
            parameter.requires_grad_(before[name])
            parameter.grad = None


# ---------------------------------------------------------------------- vmap


@dataclass(frozen=True)
class _With:
    """A model with other tensors in it, to be called."""

    model: nn.Module
    tensors: Mapping[str, Tensor]

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> object:
        return functional_call(self.model, dict(self.tensors), args, kwargs)


def vmapped(ask: Ask, batch: Batch, add: Add) -> None:
    """All gradients of all samples at once."""
    weights = {name: parameter.detach() for name, parameter in ask.parameters.items()}

    def loss_of_one(weights: Mapping[str, Tensor], *sample: Tensor) -> Tensor:
        network: Network = _With(ask.model, weights)
        return ask.loss(network, tuple(part[None] for part in sample))[0]

    over = (None, *[0] * len(batch))
    for name, gradients in vmap(grad(loss_of_one), in_dims=over)(weights, *batch).items():
        add(name, _powered(gradients, ask.power).sum(0))


# ---------------------------------------------------------------------- hooks


@dataclass
class _Uses:
    """A parameter in the layers that own it: how often they are called, and what came so far."""

    calls: int = 0
    per_sample: Tensor | None = None


@dataclass
class _Capture:
    """One forward and backward, in which each layer hands over its part when its gradient is known.

    A parameter that is used more than once (tied, or in a layer called twice) has its gradients
    added up sample by sample before they are raised to the power.
    """

    ask: Ask
    names: Mapping[int, str]
    samples: int
    add: Add
    uses: dict[str, _Uses] = field(default_factory=dict)
    leaves: list[Tensor] = field(default_factory=list)

    def on_forward(
        self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        taken = inputs[0].detach()
        version = taken._version
        made = None
        if not output.requires_grad:
            # With all weights frozen the graph has no beginning, so it begins here. A leaf may
            # not be changed in place, as the next layer may do; its copy may.
            leaf = output.detach().requires_grad_(True)
            self.leaves.append(leaf)
            made = output = leaf.clone()
        for _, name in self._owned(module):
            self.uses.setdefault(name, _Uses()).calls += 1

        def on_gradient(gradient: Tensor) -> None:
            if taken._version != version:
                raise NotSeparable(f"the input of a {type(module).__name__} is changed in place")
            self._take(module, taken, gradient.detach())

        output.register_hook(on_gradient)
        return made

    def _owned(self, module: nn.Module) -> list[tuple[str, str]]:
        """Role ("weight", "bias") and name of the asked parameters of a layer."""
        roles = ((role, getattr(module, role, None)) for role in ("weight", "bias"))
        return [(r, self.names[id(p)]) for r, p in roles if p is not None and id(p) in self.names]

    def _take(self, module: nn.Module, taken: Tensor, gradient: Tensor) -> None:
        if len(gradient) != self.samples:
            raise NotSeparable(f"a {type(module).__name__} does not keep samples apart")
        for role, name in self._owned(module):
            uses = self.uses[name]
            if uses.calls == 1:
                self.add(name, _summed(module, role, taken, gradient, self.ask.power))
            else:
                found = _per_sample(module, role, taken, gradient)
                uses.per_sample = found if uses.per_sample is None else uses.per_sample + found

    def finish(self) -> None:
        for name, uses in self.uses.items():
            if uses.per_sample is not None:
                self.add(name, _powered(uses.per_sample, self.ask.power).sum(0))


class NotSeparable(Exception):
    """The gradients of single samples cannot be read off this model's layers."""


def hooked(ask: Ask, batch: Batch, add: Add) -> None:
    """One forward and one backward; parameters outside of known layers are left to `vmapped`."""
    held: list[tuple[str, Tensor]] = []
    covered = covered_by_hooks(ask.model, ask.parameters)
    names = {id(ask.parameters[name]): name for name in covered}
    capture = _Capture(ask, names, len(batch[0]), lambda name, found: held.append((name, found)))
    handles = [
        module.register_forward_hook(capture.on_forward)
        for module in ask.model.modules()
        if capture._owned(module) and _is_known(module)
    ]
    try:
        with torch.enable_grad():
            total = ask.loss(ask.model, batch).sum()
        torch.autograd.grad(total, capture.leaves, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    capture.finish()
    rest = {name: p for name, p in ask.parameters.items() if name not in covered}
    if rest:
        vmapped(Ask(ask.model, rest, ask.loss, ask.power), batch, add)
    for name, found in held:  # only now, as an engine that fails half-way must leave nothing
        add(name, found)


def covered_by_hooks(model: nn.Module, parameters: Parameters) -> set[str]:
    """The parameters all of whose owners are layers that `hooked` knows."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(module)
    return {n for n, p in parameters.items() if all(map(_is_known, owners.get(id(p), ())))}


def _is_known(module: nn.Module) -> bool:
    match module:
        case nn.Linear() | nn.LayerNorm() | nn.GroupNorm():
            return True
        case nn.Conv1d() | nn.Conv2d():
            return module.padding_mode == "zeros" and not isinstance(module.padding, str)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return not module.training and module.running_mean is not None
        case nn.Embedding():
            return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return False


def _summed(
    module: nn.Module, role: str, taken: Tensor, gradient: Tensor, power: int
) -> Shaped[Tensor, "..."]:
    """Sum over the samples of |gradient|^power for one parameter of one layer."""
    if isinstance(module, nn.Linear) and role == "weight" and gradient.ndim == 2:
        return _powered(gradient, power).T @ _powered(taken, power)
    if isinstance(module, nn.Embedding):
        return _embedding_sums(module, taken, gradient, power)
    return _powered(_per_sample(module, role, taken, gradient), power).sum(0)


def _per_sample(
    module: nn.Module, role: str, taken: Tensor, gradient: Tensor
) -> Shaped[Tensor, "b ..."]:
    """The gradient of each sample for one parameter of one layer."""
    match module:
        case nn.Linear():
            g = gradient.flatten(1, -2) if gradient.ndim > 2 else gradient[:, None]
            if role == "bias":
                return g.sum(1)
            a = taken.flatten(1, -2) if taken.ndim > 2 else taken[:, None]
            return g.transpose(1, 2) @ a
        case nn.Conv1d() | nn.Conv2d():
            return gradient.flatten(2).sum(2) if role == "bias" else _conv(module, taken, gradient)
        case nn.Embedding():
            return _embedding(module, taken, gradient)
        case nn.LayerNorm():
            hat = F.layer_norm(taken, module.normalized_shape, eps=module.eps)
            last = len(module.normalized_shape)
            found = gradient * hat if role == "weight" else gradient
            return found.flatten(1, -last - 1).sum(1) if found.ndim > last + 1 else found
        case nn.GroupNorm():
            hat = F.group_norm(taken, module.num_groups, eps=module.eps)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            hat = F.batch_norm(taken, module.running_mean, module.running_var, eps=module.eps)
        case _:
            raise NotSeparable(f"{type(module).__name__} is not known")
    found = gradient * hat if role == "weight" else gradient
    return found.flatten(2).sum(2) if found.ndim > 2 else found


def _conv(
    module: nn.Conv1d | nn.Conv2d, taken: Float[Tensor, "b c *s"], gradient: Float[Tensor, "b o *t"]
) -> Float[Tensor, "b o i *k"]:
    """Weight gradients of a convolution: every patch of the input times what it led to."""
    padding, stride, dilation, kernel = (
        tuple(map(int, value))
        for value in (module.padding, module.stride, module.dilation, module.kernel_size)
    )
    if isinstance(module, nn.Conv1d):  # as a picture of height 1
        taken, gradient = taken[:, :, None], gradient[:, :, None]
        padding, stride, dilation, kernel = (
            (0, *padding),
            (1, *stride),
            (1, *dilation),
            (1, *kernel),
        )
    patches = F.unfold(taken, kernel, dilation=dilation, padding=padding, stride=stride)
    b, groups = len(taken), module.groups
    a = patches.view(b, groups, -1, patches.shape[-1])
    g = gradient.reshape(b, groups, module.out_channels // groups, -1)
    return (g @ a.transpose(2, 3)).view(b, *module.weight.shape)


def _embedding(module: nn.Embedding, ids: Tensor, gradient: Tensor) -> Float[Tensor, "b v d"]:
    count, width = module.weight.shape
    rows, places = _embedding_rows(module, ids, gradient)
    found = gradient.new_zeros(len(ids) * count, width)
    return found.index_add_(0, places, rows).view(len(ids), count, width)


def _embedding_sums(
    module: nn.Embedding, ids: Tensor, gradient: Tensor, power: int
) -> Float[Tensor, "v d"]:
    """Without a table for each sample: only rows that occur are added up."""
    rows, places = _embedding_rows(module, ids, gradient)
    distinct, which = places.unique(return_inverse=True)
    sums = gradient.new_zeros(len(distinct), rows.shape[1]).index_add_(0, which, rows)
    powered = _powered(sums, power)
    return powered.new_zeros(module.weight.shape).index_add_(
        0, distinct % module.num_embeddings, powered
    )


def _embedding_rows(module: nn.Embedding, ids: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each token, and the row of a table of all samples that it belongs to."""
    samples = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (ids.ndim - 1))
    places = (samples * module.num_embeddings + ids).flatten()
    rows = gradient.flatten(0, -2)
    if module.padding_idx is not None:
        kept = ids.flatten() != module.padding_idx
        rows, places = rows[kept], places[kept]
    return rows, places


def _powered(gradients: Tensor, power: int) -> Tensor:
    """|x|^power; half precision is left before squaring, in which small gradients vanish."""
    wide = gradients.float() if gradients.element_size() < 4 else gradients
    return wide.square() if power == 2 else wide.abs()


# ---------------------------------------------------------------------- the choice


BY_NAME: Mapping[Engine, Callable[[Ask, Batch, Add], None]] = {
    "loop": loop,
    "hooks": hooked,
    "vmap": vmapped,
}


def choose(model: nn.Module, parameters: Parameters, chunk: int) -> Engine:
    """The fastest engine by rule: writing copies of all gradients of a large convolutional network
    costs a processor more than one sample after the other; elsewhere reading them off the layers
    wins. What is outside of known layers goes to vmap, or to the loop where copies are too large.
    """
    weights = sum(p.numel() for p in parameters.values())
    on_cpu = next(iter(parameters.values())).device.type == "cpu"
    has_convolutions = any(isinstance(m, nn.Conv2d) for m in model.modules())
    if on_cpu and has_convolutions and weights > LARGE:
        return "loop"
    rest = parameters.keys() - covered_by_hooks(model, parameters)
    copies = sum(parameters[name].nbytes for name in rest) * chunk
    return "hooks" if copies <= MOST_COPIES else "loop"
