"""Importances: the engines agree, units differ as they should, and what is wrong is named."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from engine.core.errors import BadInput, ModelMismatch, OutOfBudget
from engine.core.job import finish
from engine.core.patch import state_fingerprint
from engine.unlearning import _importance as importance
from engine.unlearning import _per_sample as per_sample
from engine.unlearning._dampening import Dampening, automatic_alpha, bound, ratios
from engine.unlearning._importance import Importance, Measure, Provenance, Streaming, stream
from engine.unlearning._losses import (
    Denoising,
    causal_language,
    classification,
    label_free,
)
from engine.unlearning._per_sample import Ask
from engine.unlearning._samples import Look, Samples


class Twice(nn.Module):
    """A layer called twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.first(torch.tanh(self.first(x))))
        return self.last(torch.relu(self.second(x)))


class Words(nn.Module):
    """Embedding (tied to the head), layer norm, linear over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, input_ids):
        return self.head(torch.tanh(self.mix(self.norm(self.table(input_ids)))))


class Token(nn.Module):
    """A parameter that belongs to no layer, as the class token of a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6, dtype=torch.float64))
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(torch.tanh(self.mix(tokens)).mean(1))


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding=2, bias=False),
        nn.GroupNorm(3, 6),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def sounds() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1, 1, 2, 0, 0])
IDS = torch.tensor([[1, 4, 4, 0], [3, 3, 9, 10], [7, 1, 2, 5]])
CASES = {
    "pictures": (pictures, (draw(7, 2, 9, 8), LABELS), classification),
    "without labels": (pictures, (draw(7, 2, 9, 8), LABELS), label_free),
    "sounds": (sounds, (draw(7, 2, 12), LABELS), classification),
    "layers used twice": (Twice, (draw(7, 6), LABELS), classification),
    "words": (Words, (IDS, IDS), causal_language),
    "a parameter of no layer": (Token, (draw(7, 4, 6), LABELS), classification),
}


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.eval().requires_grad_(False)


def sums(name: str, engine: str, power: int = 2) -> dict[str, torch.Tensor]:
    make, batch, loss = CASES[name]
    model = network(make)
    found: dict[str, torch.Tensor] = {}

    def add(parameter: str, value: torch.Tensor) -> None:
        found[parameter] = found.get(parameter, torch.zeros_like(value)) + value

    ask = Ask(model, dict(model.named_parameters()), loss, power)
    per_sample.BY_NAME[engine](ask, batch, add)
    return found


# ---------------------------------------------------------------------- engines


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("engine", ["hooks", "vmap"])
@pytest.mark.parametrize("name", CASES)
def test_engines_agree_with_one_sample_after_the_other(name, engine, power):
    truth, found = sums(name, "loop", power), sums(name, engine, power)
    assert truth.keys() == found.keys()
    for parameter, value in truth.items():
        # float64 throughout: sums in another order, so a few units in the last place.
        assert torch.allclose(found[parameter], value, rtol=1e-12, atol=1e-13), parameter


def test_an_engine_leaves_the_model_as_it_was():
    model = network(pictures)
    before = state_fingerprint(model.state_dict())
    for engine in per_sample.ENGINES:
        ask = Ask(model, dict(model.named_parameters()), classification)
        per_sample.BY_NAME[engine](ask, CASES["pictures"][1], lambda name, found: None)
    assert state_fingerprint(model.state_dict()) == before
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_mix_samples_are_not_read_off():
    """A table of positions has no row for each sample, so its gradient cannot be split."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head((x + self.table(torch.arange(4)[None])).mean(1))

    model = network(Positions)
    batch = (draw(7, 4, 6), LABELS)
    ask = Ask(model, dict(model.named_parameters()), classification)
    with pytest.raises(per_sample.NotSeparable):
        per_sample.hooked(ask, batch, lambda name, found: None)
    # By rule another engine takes over, and nothing is counted twice.
    how = Streaming(model, classification, Provenance("positions"), accumulate=torch.float64)
    found = finish(stream(how, [batch]))
    truth = {}
    per_sample.loop(ask, batch, lambda n, v: truth.update({n: truth.get(n, 0) + v}))
    for name, value in truth.items():
        assert torch.allclose(found.values[name], value / 7, rtol=1e-12), name


def test_the_rule_takes_the_loop_for_large_convolutional_networks_on_a_processor(monkeypatch):
    model = network(pictures)
    parameters = dict(model.named_parameters())
    assert per_sample.choose(model, parameters, 8) == "hooks"
    monkeypatch.setattr(per_sample, "LARGE", 10)
    assert per_sample.choose(model, parameters, 8) == "loop"
    words = network(Words)
    assert per_sample.choose(words, dict(words.named_parameters()), 8) == "hooks"
    monkeypatch.setattr(per_sample, "MOST_COPIES", 10)
    token = network(Token)
    assert per_sample.choose(token, dict(token.named_parameters()), 8) == "loop"


# ---------------------------------------------------------------------- streaming


def some(count: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 2, 9, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Samples.of(pixels, labels, Look((0.5, 0.5), (0.25, 0.25)))


def small() -> nn.Module:
    return network(pictures).float()


def taken(samples: Samples, unit: str = "sample", **changed: object) -> Importance:
    measure = Measure(unit, batch=4, **changed)
    model = small()
    return finish(stream(measure.streaming(model), measure.batches(samples)))


def test_samples_in_any_order_and_chunk_give_one_importance():
    samples = some()
    truth = taken(samples)
    for other in (taken(samples.shuffled(3)), taken(samples, chunk=5)):
        for name, value in truth.values.items():
            assert torch.allclose(other.values[name], value, rtol=1e-4, atol=1e-9), name


def test_batches_depend_on_who_shares_one():
    samples = some()
    grouped, mixed = taken(samples.by_class(), "sorted"), taken(samples, "mixed")
    name = "8.weight"
    assert not torch.allclose(grouped.values[name], mixed.values[name], rtol=0.05)


def test_batches_of_one_are_samples():
    samples = some(6)
    measure = Measure("sorted", batch=1)
    single = finish(stream(measure.streaming(small()), measure.batches(samples)))
    truth = taken(samples)
    for name, value in truth.values.items():
        assert torch.allclose(single.values[name], value, rtol=1e-4, atol=1e-9), name


@given(st.integers(1, 23))
@examples(max_examples=5)
def test_shards_add_up(cut):
    samples = some()
    places = torch.arange(len(samples))
    parts = taken(samples.take(places[:cut])), taken(samples.take(places[cut:]))
    both, truth = parts[0].plus(parts[1]), taken(samples)
    assert (both.terms, both.samples) == (24, 24)
    for name, value in truth.values.items():
        assert torch.allclose(both.values[name], value, rtol=1e-4, atol=1e-9), name


def test_partial_results_are_told_on_the_way():
    measure = Measure("sample", chunk=8)
    steps = stream(measure.streaming(small()), measure.batches(some()))
    seen = [(part.samples, float(part.values["8.bias"].sum())) for part in steps]
    whole = taken(some())
    assert float(whole.values["8.bias"].sum()) == pytest.approx(seen[-1][1], rel=1e-5)
    assert [count for count, _ in seen] == [8, 16, 24]


def test_no_share_of_the_data_matters_more_than_its_bound():
    """N I_D >= N_f I_f, sample by sample."""
    samples = some()
    full, forget = taken(samples), taken(samples.take(torch.arange(4)))
    limit = bound(24, 4)
    for name, value in full.values.items():
        assert bool((forget.values[name] <= limit * value * (1 + 1e-5) + 1e-12).all())
    state = small().state_dict()
    assert Dampening(limit * 1.001).edit(state, forget, full) == {}
    assert Dampening(limit / 4).edit(state, forget, full)


def test_sums_on_disk_are_those_in_memory(tmp_path):
    measure = Measure("sample")
    how = measure.streaming(small(), into=tmp_path / "sums.safetensors")
    found, truth = finish(stream(how, measure.batches(some()))), taken(some())
    found.save(tmp_path / "importance.safetensors")
    back = Importance.open(tmp_path / "importance.safetensors")
    assert back.provenance == found.provenance
    assert (back.terms, back.samples) == (24, 24)
    for name, value in truth.values.items():
        assert torch.equal(back.values[name], value), name


def test_protected_layers_have_no_importance():
    measure = Measure("sample")
    how = measure.streaming(small(), lambda name: not name.startswith("8."))
    assert "8.weight" not in finish(stream(how, measure.batches(some()))).values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    model = small().to(dtype)
    measure = Measure("sample")
    found = finish(stream(measure.streaming(model), measure.batches(some(4))))
    assert {value.dtype for value in found.values.values()} == {torch.float32}
    truth = taken(some(4))
    assert torch.allclose(found.values["8.weight"], truth.values["8.weight"], rtol=0.2, atol=1e-3)


# ---------------------------------------------------------------------- what is wrong is named


def test_importances_of_other_settings_or_models_do_not_compare():
    samples = some()
    sample = taken(samples)
    with pytest.raises(BadInput, match="do not compare"):
        Dampening().edit(small().state_dict(), sample, taken(samples, "sorted"))
    other = copy.copy(sample)
    object.__setattr__(other, "provenance", Provenance("another model"))
    with pytest.raises(BadInput, match="another model"):
        sample.plus(other)


def test_a_gradient_that_is_not_finite_names_parameter_and_samples():
    model = small()
    with torch.no_grad():
        model[8].weight[0, 0] = torch.inf
    measure = Measure("sample", chunk=8)
    with pytest.raises(BadInput, match=r"gradient of .* is not finite for the samples 0 to 7"):
        finish(stream(measure.streaming(model), measure.batches(some())))


def test_importances_that_are_not_finite_are_refused_by_name():
    found = taken(some())
    broken = {**found.values, "8.bias": torch.full((3,), torch.nan)}
    wrong = Importance(broken, found.provenance, 24, 24)
    with pytest.raises(BadInput, match=r"importances of 8\.bias are not finite"):
        Dampening().edit(small().state_dict(), wrong, found)


def test_a_model_without_logits_is_refused():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"pooled": x * self.weight}

    with pytest.raises(ModelMismatch, match="returns no logits"):
        classification(Pooled(), (torch.ones(2, 3), torch.tensor([0, 1])))


def test_nothing_editable_and_nothing_given_are_refused():
    measure = Measure("sample")
    with pytest.raises(BadInput, match="No weight"):
        finish(stream(measure.streaming(small(), lambda name: False), measure.batches(some())))
    with pytest.raises(BadInput, match="no sample"):
        finish(stream(measure.streaming(small()), iter(())))


def test_out_of_memory_tells_a_chunk_that_fits(monkeypatch):
    real = per_sample.hooked

    def short_of_memory(ask, batch, add):
        if len(batch[0]) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        real(ask, batch, add)

    monkeypatch.setattr(per_sample, "hooked", short_of_memory)
    monkeypatch.setitem(per_sample.BY_NAME, "hooks", short_of_memory)
    with pytest.raises(OutOfBudget) as caught:
        taken(some(), chunk=24)
    assert caught.value.advice == "Set the chunk to 3."
    assert taken(some(), chunk=3).samples == 24


def test_a_file_that_holds_no_importances_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(BadInput, match="no importances"):
        Importance.open(tmp_path / "weights.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04 and more of it")
    with pytest.raises(BadInput, match="pickle"):
        Importance.open(tmp_path / "pickle.safetensors")


# ---------------------------------------------------------------------- dampening


def pair(f: list[float], d: list[float]) -> tuple[Importance, Importance]:
    told = Provenance("same")
    return tuple(Importance({"w": torch.tensor(v)}, told, 1, 1) for v in (f, d))  # type: ignore


def test_the_comparison_is_strict_and_zero_over_zero_selects_nothing():
    weights = {"w": torch.tensor([1.0, -2.0, 3.0, 4.0])}
    forget, full = pair([2.0, 2.1, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0])
    (new,) = Dampening(2.0, 1.0).edit(weights, forget, full).values()
    # At alpha I_D exactly: kept. Above: times I_D / I_f, with its sign. I_D = 0: to nothing.
    assert new.tolist() == pytest.approx([1.0, -2.0 / 2.1, 3.0, 0.0])
    assert weights["w"].tolist() == [1.0, -2.0, 3.0, 4.0]


def test_no_weight_grows():
    weights = {"w": torch.tensor([1.0, 1.0])}
    forget, full = pair([2.0, 8.0], [1.0, 1.0])
    (new,) = Dampening(1.0, 4.0).edit(weights, forget, full).values()
    assert new.tolist() == [1.0, 0.5]


def test_the_exponent_bends_the_factor_and_the_cap_bounds_it():
    weights = {"w": torch.tensor([1.0, 1.0, 1.0])}
    forget, full = pair([2.0, 8.0, 1.0], [1.0, 1.0, 1.0])
    (bent,) = Dampening(1.0, 1.0, exponent=2.0).edit(weights, forget, full).values()
    assert bent.tolist() == [0.25, 1 / 64, 1.0]
    (capped,) = Dampening(1.0, 4.0, cap=0.75).edit(weights, forget, full).values()
    assert capped.tolist() == [0.75, 0.5, 1.0]


def test_the_automatic_alpha_selects_two_per_cent():
    generator = torch.Generator().manual_seed(0)
    f, d = (torch.rand(50_000, generator=generator) + 0.01 for _ in range(2))
    forget, full = pair(f.tolist(), d.tolist())
    alpha = automatic_alpha(ratios(forget, full))
    assert float((f > alpha * d).float().mean()) == pytest.approx(0.02, abs=0.001)


def test_the_histogram_counts_every_weight_once():
    forget, full = pair([0.0, 1.0, 1.0, 1e9], [1.0, 1.0, 0.0, 1e-9])
    found = ratios(forget, full)
    assert int(found.counts.sum()) + found.zero == 4


# ---------------------------------------------------------------------- other kinds of models


def test_the_noise_of_a_sample_is_its_own():
    """The same sample meets the same noise, alone and among others, so its share is exact."""

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x, timesteps, encoder_hidden_states):
            return self.mix(x) + 0 * encoder_hidden_states.mean() * timesteps.view(-1, 1, 1, 1)

    unet = network(Unet).float()
    loss = Denoising((1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0))
    latents, condition = draw(5, 1, 6, 6).float(), draw(5, 2, 4).float()
    ids = torch.tensor([11, 3, 8, 2, 5])
    with torch.no_grad():
        together = loss(unet, (latents, condition, ids))
        alone = loss(unet, (latents[2:3], condition[2:3], ids[2:3]))
    assert torch.allclose(together[2:3], alone, rtol=1e-6)
    how = Streaming(unet, loss, Provenance("unet", loss="denoising"))
    batches = [(latents, condition, ids)]
    full = finish(stream(how, batches))
    forget = finish(stream(how, [tuple(part[:1] for part in batches[0])]))
    for name, value in full.values.items():
        assert bool((forget.values[name] <= 5 * value * (1 + 1e-5)).all())


def unet(*, conditional: bool) -> nn.Module:
    """A tiny one of diffusers."""
    from diffusers import UNet2DConditionModel, UNet2DModel

    wide = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    if not conditional:
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        return UNet2DModel(**wide, **blocks, add_attention=False)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**wide, **blocks, cross_attention_dim=4, attention_head_dim=2)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_a_diffusion_network_forgets_through_the_same_functions(conditional):
    """A tiny UNet of diffusers, with and without a condition; two of six samples are forgotten."""
    make = partial(unet, conditional=conditional)
    model = network(make).float()
    loss = Denoising((1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0))
    parts = [draw(6, 1, 8, 8).float(), torch.arange(6)]
    if conditional:
        parts.insert(1, draw(6, 3, 4).float())
    sums = {}
    for engine in ("loop", "hooks"):
        sums[engine] = {}

        def add(name, value, into=sums[engine]):
            into[name] = into.get(name, 0) + value

        ask = Ask(model, dict(model.named_parameters()), loss)
        per_sample.BY_NAME[engine](ask, tuple(parts), add)
    largest = max(float(value.abs().max()) for value in sums["loop"].values())
    for name, value in sums["loop"].items():
        # float32, as weights and noise are; sums in another order.
        assert torch.allclose(sums["hooks"][name], value, rtol=1e-3, atol=1e-5 * largest), name
    how = Streaming(model, loss, Provenance("unet", loss="denoising"))
    full = finish(stream(how, [tuple(parts)]))
    forget = finish(stream(how, [tuple(part[:2] for part in parts)]))
    state = model.state_dict()
    # Two of six samples: no ratio is above three, as each sample's noise is its own.
    assert Dampening(3.001).edit(state, forget, full) == {}
    model.load_state_dict({**state, **Dampening(1.5, 0.1).edit(state, forget, full)})
    with torch.no_grad():
        assert not torch.equal(loss(model, tuple(parts)), loss(network(make).float(), tuple(parts)))


def test_draws_of_the_noise_add_up():
    model = network(lambda: unet(conditional=False)).float()
    alphas, batch = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0), draw(2, 1, 8, 8).float()
    told = Provenance("unet", loss="denoising")
    parts = [
        finish(
            stream(Streaming(model, Denoising(alphas, draw=k), told), [(batch, torch.arange(2))])
        )
        for k in range(2)
    ]
    both = parts[0].plus(parts[1])
    name = "conv_in.weight"
    assert not torch.equal(parts[0].values[name], parts[1].values[name])
    mean = (parts[0].values[name] + parts[1].values[name]) / 2
    assert torch.allclose(both.values[name], mean)


@pytest.mark.slow
def test_a_language_model_forgets_through_the_same_functions():
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2)
        ).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 17, (12, 6), generator=generator)
    learn = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        learn.zero_grad()
        causal_language(model, (ids, ids)).mean().backward()
        learn.step()
    model.requires_grad_(False)
    how = Streaming(model, causal_language, Provenance("gpt2", loss="causal_language"), chunk=4)
    full = finish(stream(how, [(ids, ids)]))
    forget = finish(stream(how, [(ids[:2], ids[:2])]))
    edited = Dampening(3.0).edit(model.state_dict(), forget, full)
    assert edited
    with torch.no_grad():
        before = causal_language(model, (ids, ids))
        model.load_state_dict({**model.state_dict(), **edited})
        after = causal_language(model, (ids, ids))
    rise = after - before
    assert float(rise[:2].mean()) > float(rise[2:].mean())


def test_units_are_those_that_ship():
    assert importance.UNITS == ("sorted", "mixed", "sample")
