"""Refresh learning: the equation, the step uphill, the callback, the buffer, the tasks."""

import copy
import csv
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Job
from engine.unlearning.refresh_learning import bregman, continual, flatness
from engine.unlearning.refresh_learning.continual import Buffer, Course, Learner
from engine.unlearning.refresh_learning.networks import new_network
from engine.unlearning.refresh_learning.refresh import (
    Refresh,
    RefreshOptimizer,
    batch_loss,
    fisher_of,
    trainer_callback,
)

TARGET = "engine.unlearning.refresh_learning.algorithm"
QUICK = {"train": 20, "test": 20, "seeds": 2}


def batch(seed: int = 0, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = rng.generator(seed, "batch")
    return torch.randn(count, 6, generator=draw), torch.randint(3, (count,), generator=draw)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def refreshed(model: nn.Module, how: Refresh, **more) -> RefreshOptimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return RefreshOptimizer(model, optimizer, batch_loss, how=how, **more)


# ---------------------------------------------------------------------- the equation


@pytest.mark.slow
@pytest.mark.parametrize("key", bregman.SPECIAL)
@given(st.integers(0, 1000))
def test_every_method_is_the_general_equation(key: str, seed: int):
    numbers = bregman.Numbers.drawn(rng.generator(seed))
    special = bregman.SPECIAL[key]
    scale = 1 + abs(float(special.own(numbers)))
    assert special.error(numbers) < 1e-12 * scale


def test_a_divergence_is_zero_at_itself_never_negative_and_not_symmetric():
    p, q = (torch.tensor(v, dtype=torch.float64) for v in ([0.2, 0.8], [0.6, 0.4]))
    forward = bregman.divergence(bregman.negative_entropy, p, q)
    assert float(bregman.divergence(bregman.negative_entropy, p, p)) == pytest.approx(0, abs=1e-15)
    assert float(forward) > 0
    assert float(forward) != pytest.approx(
        float(bregman.divergence(bregman.negative_entropy, q, p)), rel=1e-3
    )


def test_a_choice_of_functions_names_its_methods():
    assert bregman.named("squares", "none", 1.0, 0.0) == ("DER", "DER++")
    assert bregman.named("none", "fisher", 0.0, 1.0) == ("online EWC",)
    assert bregman.named("none", "fisher", 0.0, 0.0) == ("plain fine-tuning",)
    assert bregman.named("squares", "fisher", 1.0, 1.0) == ("a new combination",)
    with pytest.raises(BadInput, match="Phi cannot be"):
        bregman.named("cubes", "none", 1.0, 0.0)


@pytest.mark.slow
def test_the_equation_is_checked_live(run_job):
    *_, done = run_job(Job(f"{TARGET}:equation", {"phi": "negative entropy"}, 3))
    shown = done.result
    assert len(shown.checked) == len(bregman.SPECIAL)
    assert all(checked.error < 1e-12 for checked in shown.checked)
    assert (shown.levels >= -1e-12).all()


# ---------------------------------------------------------------------- the step uphill


def test_every_tensor_moves_by_the_share_delta_of_its_own_length():
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    refreshed(model, Refresh(delta=1e-3, noise=0.0)).unlearn(batch())
    for name, parameter in model.named_parameters():
        moved = float((parameter.detach() - before[name]).norm() / before[name].norm())
        assert moved == pytest.approx(1e-3, rel=1e-2)


def test_unlearning_goes_uphill_and_the_controls_need_not():
    model = network()
    before = float(batch_loss(model, batch()).detach())
    refreshed(model, Refresh(delta=1e-2, noise=0.0)).unlearn(batch())
    assert float(batch_loss(model, batch()).detach()) > before


def test_delta_zero_is_plain_training(same_bits):
    plain, other = network(), network()
    refresh = refreshed(other, Refresh(delta=0.0))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for seed in range(3):
        refresh.step(batch(seed))
        optimizer.zero_grad()
        batch_loss(plain, batch(seed)).backward()
        optimizer.step()
    assert same_bits(dict(plain.state_dict()), dict(other.state_dict()))


def test_the_gradients_that_lie_on_the_parameters_stay():
    model = network()
    batch_loss(model, batch(1)).backward()
    before = [p.grad.clone() for p in model.parameters()]
    refreshed(model, Refresh()).unlearn(batch())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_running_statistics_do_not_see_the_pass_uphill():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    refreshed(model, Refresh(delta=1e-2)).unlearn(batch())
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_rounding_noise_before_batch_norm_is_not_blown_up():
    bias = torch.ones(4)
    rounding = torch.full((4,), 1e-14)
    change = Refresh(delta=1.0, noise=0.0).change(bias, rounding, 0.0, torch.zeros(4))
    assert not change.any()


def test_a_bias_of_zeros_moves_by_the_noise_alone():
    how, xi = Refresh(delta=1e-2), torch.randn(4)
    change = how.change(torch.zeros(4), torch.ones(4), 0.0, xi)
    torch.testing.assert_close(change, 1e-2 * 1e-3 * xi)


def test_the_form_of_the_paper_is_natural_ascent_with_its_noise():
    gradient, fisher, xi = torch.randn(3), torch.rand(3), torch.randn(3)
    found = Refresh(0.01, form="paper", damping=0.5).change(torch.ones(3), gradient, fisher, xi)
    metric = fisher + 0.5
    torch.testing.assert_close(found, 0.01 * gradient / metric + (0.02 / metric).sqrt() * xi)


def test_a_weight_that_matters_moves_less():
    weight, gradient = torch.ones(2), torch.ones(2)
    change = Refresh(noise=0.0).change(weight, gradient, torch.tensor([0.0, 1000.0]), weight)
    assert float(change[0]) == pytest.approx(2 * float(change[1]))


def test_equal_seeds_unlearn_alike_and_others_do_not(same_bits):
    found = []
    for seed in (1, 1, 2):
        model = network()
        refreshed(model, Refresh(delta=1e-2, direction="random"), seed=seed).unlearn(batch())
        found.append(dict(model.state_dict()))
    assert same_bits(found[0], found[1])
    assert not same_bits(found[0], found[2])


@pytest.mark.parametrize("weighting", ["mammoth", "one"])
def test_fisher_information_is_the_mean_over_samples_one_by_one(weighting: str):
    model, (inputs, labels) = network().double(), batch(count=5)
    inputs = inputs.double()
    truth = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        log = model(x[None]).log_softmax(-1)[0, y]
        log.backward()
        share = float(log.detach().exp()) if weighting == "mammoth" else 1.0
        for name, parameter in model.named_parameters():
            truth[name] += share * parameter.grad.square() / 6
    parts = [(inputs[:3], labels[:3]), (inputs[3:], labels[3:])]
    found = fisher_of(model, parts, weighting=weighting)
    for name, value in found.items():
        torch.testing.assert_close(value, truth[name], atol=1e-12, rtol=0)


# ---------------------------------------------------------------------- the Trainer


class _Classifier(nn.Module):
    """A model that takes labels and returns its loss, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = network(), 0

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        from transformers.modeling_outputs import SequenceClassifierOutput

        self.passes += 1
        logits = self.inner(inputs)
        return SequenceClassifierOutput(nn.functional.cross_entropy(logits, labels), logits)


def _trained(folder, callbacks) -> _Classifier:
    from transformers import Trainer, TrainingArguments

    inputs, labels = batch(count=8)
    rows = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=0.1,
        report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, seed=1,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = _Classifier()
    Trainer(model, arguments, train_dataset=rows, callbacks=callbacks).train()
    return model


@pytest.mark.slow
def test_the_trainer_unlearns_every_batch_before_it_learns_it(tmp_path):
    with torch.random.fork_rng(devices=[]):
        plain = _trained(tmp_path, [])
        idle = _trained(tmp_path, [trainer_callback(Refresh(delta=0.0))])
        found = _trained(tmp_path, [trainer_callback(Refresh(delta=1e-2))])
    assert plain.passes == 3
    assert idle.passes == found.passes == 6
    pairs = zip(plain.parameters(), idle.parameters(), found.parameters(), strict=True)
    for a, b, c in pairs:
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert not found._forward_pre_hooks


# ---------------------------------------------------------------------- tasks


@pytest.mark.slow
def test_a_reservoir_keeps_every_sample_with_equal_probability():
    kept = torch.zeros(30)
    for seed in range(400):
        buffer = Buffer(6, rng.generator(seed))
        for i in range(30):
            buffer.add((torch.zeros(1, 1), torch.tensor([i])), torch.zeros(1, 2))
        kept[torch.stack(buffer.labels)] += 1
    # 400 draws at one fifth: 80, standard deviation 8
    assert (kept - 80).abs().max() < 5 * 8


def test_forgetting_and_transfer_of_a_matrix_one_can_check_by_hand():
    matrix = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.8, 0.0], [0.4, 0.3, 1.0]])
    assert continual.backward_transfer(matrix) == pytest.approx(((0.4 - 0.9) + (0.3 - 0.8)) / 2)
    torch.testing.assert_close(continual.forgetting(matrix), torch.tensor([0.5, 0.5, 0.0]))


def test_tasks_split_the_classes_and_name_what_is_too_much():
    data = continual.tasks(20, 20)
    assert [sorted(set(labels.tolist())) for _, labels in data.train] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9],
    ]  # fmt: skip
    with pytest.raises(BadInput, match="train pictures, not 5000"):
        continual.tasks(5000, 20)


@pytest.mark.parametrize("way", continual.WAYS)
def test_every_way_goes_through_all_tasks(way: str):
    stages = [
        s for s in Learner(Course(way, train=10, test=10), None, 0).run() if s.by_class is not None
    ]
    assert len(stages) == (1 if way == "joint" else continual.TASKS)
    assert stages[-1].task == continual.TASKS - 1
    for stage in stages:
        assert (stage.by_task >= stage.by_class).all()


def test_replay_and_anchors_are_used_from_the_second_batch_or_task_on():
    learner = Learner(Course("derpp", train=10, test=10, buffer=5), None, 0)
    assert float(learner._beside()) == 0
    for _ in zip(range(2), learner.run(), strict=False):
        pass
    assert len(learner.buffer) == 5
    with torch.enable_grad():
        assert float(learner._beside().detach()) > 0


@pytest.mark.slow
def test_arms_take_the_same_learning_steps_and_tell_the_extra_ones(run_job):
    *_, done = run_job(Job(f"{TARGET}:run", {**QUICK, "controls": True}, 0))
    shown = done.result
    assert [arm.key for arm in shown.arms] == ["plain", "refresh", "random", "noise"]
    steps = {run.steps for arm in shown.arms for run in arm.runs}
    assert len(steps) == 1
    extra = {arm.key: arm.runs[0].extra_steps for arm in shown.arms}
    assert extra.pop("plain") == 0
    assert set(extra.values()) == steps
    assert [p.key for p in shown.paired] == ["refresh", "random", "noise"]
    assert all(len(p.differences) == 2 for p in shown.paired)
    assert shown.arms[1].runs[0].relative_step == pytest.approx(1e-5, rel=0.05)


@pytest.mark.slow
def test_delta_zero_differs_from_plain_by_nothing(run_job):
    *_, done = run_job(Job(f"{TARGET}:run", {**QUICK, "delta": 0.0}, 0))
    assert done.result.paired[0].differences == (0.0, 0.0)
    assert not done.result.paired[0].is_significant


@pytest.mark.slow
def test_a_large_delta_is_warned_of(run_job):
    *_, done = run_job(Job(f"{TARGET}:run", {**QUICK, "seeds": 1, "delta": 0.01}, 0))
    assert any("above 0.003" in note for note in done.result.notes)
    assert any("three seeds" in note for note in done.result.notes)


@pytest.mark.slow
def test_the_matrices_come_as_a_table(run_job):
    *_, done = run_job(Job(f"{TARGET}:export", {**QUICK, "seeds": 1}, 0))
    rows = list(csv.DictReader(io.StringIO(done.result.texts["accuracies.csv"])))
    assert len(rows) == 2 * continual.TASKS**2
    assert all(0 <= float(row["class-incremental"]) <= 1 for row in rows)


# ---------------------------------------------------------------------- flatness


def test_a_direction_has_the_length_of_every_filter():
    model = network()
    towards = flatness.direction(model, 0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.testing.assert_close(towards[name].norm(dim=1), weight.detach().norm(dim=1))
        else:
            assert not towards[name].any()


def test_the_line_passes_through_the_network_itself_and_leaves_it_alone(same_bits):
    model = network()
    before = copy.deepcopy(dict(model.state_dict()))
    places = flatness.line()
    losses = list(flatness.along(model, batch(), flatness.direction(model, 0), places))
    middle = losses[len(losses) // 2]
    assert middle == pytest.approx(float(batch_loss(model, batch()).detach()), abs=1e-6)
    assert same_bits(before, dict(model.state_dict()))


def test_the_small_residual_network_has_no_bias_before_a_norm():
    model = new_network("resnet", 0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) >= 17
    assert all(m.bias is None for m in convolutions)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert math.isfinite(
        flatness.gradient_norm(model, (torch.rand(2, 1, 28, 28), torch.tensor([0, 1])))
    )
    assert np.isfinite(flatness.line().numpy()).all()
