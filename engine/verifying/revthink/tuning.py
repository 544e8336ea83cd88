"""A LoRA student through PEFT: three losses on three batches of the same questions, every step.

Works on any causal language model of transformers; the weights of the base stay as they are.
"""

import math
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress
from engine.core.named_file import TextFile
from engine.core.patch import Patch, state_fingerprint
from engine.core.precision import state_at_home
from engine.core.recipe import Plain, Recipe
from engine.core.reversible import compare
from engine.core.rng import generator
from engine.core.shapes import Float, Tensor
from engine.models._sources import HUB_ID
from engine.models.language import LanguageBundle
from engine.models.library import fork, resolve
from engine.models.peft_files import CONFIG, WEIGHTS, quietly, written
from engine.models.tensor_file import TensorFile
from engine.verifying.revthink import extract, teachers
from engine.verifying.revthink import fleet as fl
from engine.verifying.revthink.augment import Record
from engine.verifying.revthink.extract import NONE
from engine.verifying.revthink.objective import Mean, objective
from engine.verifying.revthink.results import Answered, Tuned

if TYPE_CHECKING:
    from peft import PeftModel

TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "v_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
TASKS = ("FR", "BQ", "BR")
LONGEST_SEQUENCE = 512


@dataclass(frozen=True)
class Settings:
    """Of the adapter and its training; the defaults are the paper's, save rate and steps."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: str = "attention"
    steps: int = 60
    batch: int = 4
    learning_rate: float = 2e-4
    mean: Mean = "sequences"
    tasks: tuple[str, ...] = TASKS


@dataclass(frozen=True)
class Row:
    """Tokens of one sequence and where its target begins."""

    ids: tuple[int, ...]
    prompt_len: int


def rows_of(bundle: LanguageBundle, record: Record) -> dict[str, Row]:
    """The three sequences of a record in the model's own form of conversation."""
    q, a, qb = record.question, record.gold_answer, record.backward_question
    if teachers.knows_only_months(bundle):
        questions = {"FR": q, "BQ": f"{q} answer {a} . ask back :", "BR": qb}
        answers = {"FR": record.forward_reasoning, "BQ": qb, "BR": record.backward_reasoning}
    else:
        questions = {
            "FR": teachers.FORWARD.format(question=q),
            "BQ": teachers.ASK_BACK.format(question=q, answer=a),
            "BR": teachers.BACKWARD.format(question=qb),
        }
        answers = {
            "FR": teachers.SAID_FORWARD.format(text=record.forward_reasoning),
            "BQ": teachers.SAID_BACK.format(text=qb),
            "BR": teachers.SAID_FORWARD.format(text=record.backward_reasoning),
        }
    return {task: _row(bundle, questions[task], answers[task]) for task in TASKS}


def _row(bundle: LanguageBundle, question: str, answer: str) -> Row:
    prompt = bundle.prompt(question).ids
    target = bundle.tokenizer(answer, add_special_tokens=False).input_ids
    end = bundle.tokenizer.eos_token_id
    ids = (*prompt, *target, *([] if end is None else [end]))
    return Row(ids[:LONGEST_SEQUENCE], len(prompt))


def tuned(
    bundle: LanguageBundle,
    records: Sequence[Record],
    held_out: Sequence[tuple[str, str]],
    settings: Settings,
    seed: int,
    recipe: Recipe,
    notes: tuple[str, ...] = (),
    most_tokens: int = 80,
) -> Generator[Progress, None, Tuned]:
    """Train the adapter, ask the held-out questions before and after, bake, undo, read back."""
    rows = []
    for index, record in enumerate(records):
        rows.append(rows_of(bundle, record))
        if index % 20 == 0:
            yield Progress(0, settings.steps, "Reading the augmented set")
    result = Tuned(
        records=len(records),
        kept=len(records),
        target_tokens=sum(
            len(row[t].ids) - row[t].prompt_len for row in rows for t in settings.tasks
        ),
        notes=notes,
    )
    answers: list[Answered] = []
    for question, gold in held_out:
        reply = yield from _ask(bundle, question, most_tokens, result, settings.steps, "before")
        answers.append(Answered(question, gold, reply, _is_right(reply, gold)))
        result = replace(result, answers=tuple(answers))
    model = _with_adapter(bundle, settings, seed)
    result = replace(
        result, trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad)
    )
    for step, losses in enumerate(_train(model, rows, settings, seed, bundle), start=1):
        if losses is not None:
            result = replace(result, losses=(*result.losses, (len(result.losses) + 1, *losses)))
        done = len(result.losses)
        yield Progress(done, settings.steps + 1, f"Training: step {done}, pass {step}", result)
    model.eval()
    student = replace(bundle, model=model)
    for index, answer in enumerate(answers):
        reply = yield from _ask(
            student, answer.question, most_tokens, result, settings.steps, "after"
        )
        answers[index] = replace(answer, after=reply, after_is_right=_is_right(reply, answer.gold))
        result = replace(result, answers=tuple(answers))
    yield Progress(settings.steps, settings.steps + 1, "Writing, reading back, undoing", result)
    return _taken_along(bundle, model, result, recipe, rows[0]["FR"])


def _is_right(text: str, gold: str) -> bool:
    form = extract.form_of(gold)
    return extract.same(extract.EXTRACT[form](text), gold, form)


def _ask(
    bundle: LanguageBundle, question: str, most: int, partial: Tuned, steps: int, when: str
) -> Generator[Progress, None, str]:
    prompt = question
    most = fl.LONGEST_ANSWER if teachers.knows_only_months(bundle) else most
    if not teachers.knows_only_months(bundle):
        prompt = teachers.FORWARD.format(question=question)
    reply = ""
    done = len(partial.losses)
    for text in teachers.say(bundle, prompt, most=most):
        reply = text
        yield Progress(done, steps + 1, f"Asking {when}: {question[:60]}", partial)
    return reply


# ---------------------------------------------------------------------- adapter


def _with_adapter(bundle: LanguageBundle, settings: Settings, seed: int) -> "PeftModel":
    """A fork of the model with fresh adapters; PEFT draws them from torch's global generator."""
    with quietly():
        from peft import LoraConfig, get_peft_model

    names = {name.rpartition(".")[2] for name, _ in bundle.model.named_modules()}
    targets = [name for name in TARGETS[settings.targets] if name in names]
    if not targets:
        raise ModelMismatch(
            "This model has no projections called q_proj and v_proj.",
            "Pick a Llama, Qwen, Mistral or Gemma model.",
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        return get_peft_model(fork(bundle.model), config)


def name_of(bundle: LanguageBundle) -> str:
    """How an adapter names its base: key or Hub id; of a folder its last name, not its place."""
    source = bundle.ref.source
    return source if HUB_ID.fullmatch(source) else Path(source).name


def _train(
    model: "PeftModel",
    rows: Sequence[Mapping[str, Row]],
    settings: Settings,
    seed: int,
    bundle: LanguageBundle,
) -> Iterator[tuple[float, float, float] | None]:
    """Steps of AdamW at a constant rate; the three losses of each, None between its passes."""
    draw = generator(seed, "batches")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=1e-3)
    pad = bundle.tokenizer.pad_token_id or 0
    order: list[int] = []
    model.train()
    for step in range(settings.steps):
        while len(order) < settings.batch:
            order += torch.randperm(len(rows), generator=draw).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        optimizer.zero_grad(set_to_none=True)
        losses = {}
        for place, task in enumerate(settings.tasks):
            batch = [rows[index][task] for index in chosen]
            # Dropout draws from the global generator; a fork of it keeps runs alike.
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(generator(seed, "dropout", step, place).initial_seed())
                loss = _loss(model, batch, pad, settings.mean, bundle.device)
                # Each loss is a mean, so a third of each adds up to the joint objective.
                (loss / len(settings.tasks)).backward()
            losses[task] = loss.detach()
            yield None
        optimizer.step()
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        assert all(map(math.isfinite, values.values()))
        yield tuple(values.get(task, 0.0) for task in TASKS)


def _loss(model: Any, batch: Sequence[Row], pad: int, mean: Mean, device: str) -> Float[Tensor, ""]:
    longest = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[pad] * (longest - len(row.ids))] for row in batch])
    lengths = torch.tensor([[row.prompt_len, len(row.ids)] for row in batch], device=device)
    ids = ids.to(device)
    mask = torch.arange(longest, device=device) < lengths[:, 1:]
    logits = model(input_ids=ids, attention_mask=mask.long()).logits.float()
    return objective(logits, ids, lengths[:, 0], lengths[:, 1], mean)


# ---------------------------------------------------------------------- taking it along


def _taken_along(
    bundle: LanguageBundle, model: "PeftModel", result: Tuned, recipe: Recipe, row: Row
) -> Tuned:
    """The adapter's files read back, and the merged weights as a patch, applied and undone."""
    old = dict(bundle.model.state_dict())
    baked = merged_weights(model, old)
    touched = state_at_home({name: old[name] for name in baked})
    patch = Patch.between(old, old | baked, recipe)
    applied = patch.apply(touched)
    undone = patch.undo(applied)
    adapter, config, error = _files(bundle, model, row)
    return replace(
        result,
        patch=patch,
        digest=patch.digest,
        adapter=adapter,
        adapter_config=config,
        read_back=error,
        before=state_fingerprint(touched),
        after=state_fingerprint(applied),
        undone=state_fingerprint(undone),
        undo=compare(touched, undone),
        megabytes=patch.nbytes / 1e6,
    )


def merged_weights(model: "PeftModel", old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + alpha/r B A for every adapted projection, in the number format of W."""
    changes = {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }
    return {
        name: (old[name].float() + change.detach().float()).to(old[name].dtype)
        for name, change in changes.items()
    }


def _files(
    bundle: LanguageBundle, model: "PeftModel", row: Row
) -> tuple[TensorFile, TextFile, float]:
    """adapter_model.safetensors and adapter_config.json as PEFT writes them, and the largest
    difference of logits once PEFT has read them."""
    with quietly():
        from peft import PeftModel

    ids = torch.tensor([row.ids], device=bundle.device)
    data, config = written(model, base=name_of(bundle))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), quietly():
        Path(folder, WEIGHTS).write_bytes(data)
        Path(folder, CONFIG).write_text(config, "utf-8")
        again = PeftModel.from_pretrained(fork(bundle.model), folder).eval()
    with torch.no_grad():
        gap = (model(input_ids=ids).logits - again(input_ids=ids).logits).abs().max()
    return TensorFile(WEIGHTS, data), TextFile.of(CONFIG, config), float(gap)


def recipe_of(bundle: LanguageBundle, params: Mapping[str, Plain], seed: int, label: str) -> Recipe:
    """What the patch says of itself."""
    return Recipe("revthink", "tune", resolve(bundle.ref), params, seed, label=label).here()


def check_records(records: Sequence[Record], least: int) -> None:
    """Raises `BadInput` when there is too little to train on."""
    if len(records) < least:
        raise BadInput(
            f"The augmented set has {len(records)} consistent records; at least {least} are "
            "needed.",
            "Augment more questions, or keep what the filter drops and see what that does.",
        )
    if any(record.forward_pred == NONE for record in records):
        raise BadInput(
            "A record has a forward chain without an answer.", "Leave it out of the file."
        )
