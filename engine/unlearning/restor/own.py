"""A visitor's model on a visitor's facts: as it is, corrupted by documents, and unlearned again.

Training goes through LoRA on all linear layers, so a model of the Hub is never copied; the adapter
of every stage can be taken along. An answer is the model's own words after the examples, compared
with every accepted answer, and the mean log-probability of right and wrong answers.
"""

import csv
import io
import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from engine.core import checks, rng
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain, versions_here
from engine.core.shapes import Int, Tensor
from engine.metrics.intervals import Rate
from engine.models.language import LanguageBundle
from engine.models.library import load
from engine.models.peft_files import written
from engine.unlearning._adapters import merged, with_adapter
from engine.unlearning._losses import logits_of
from engine.unlearning._objectives import METHODS, Objective, cross_entropy
from engine.unlearning._questions import Fact, read_facts, read_texts
from engine.unlearning._scoring import greedy, padded, score_options
from engine.unlearning._unlearning import CLIP, unlearn
from engine.unlearning.restor.results import Own, OwnFact, OwnStage

MOST_FACTS, LONGEST_DOCUMENT, BATCH = 200, 256, 4
CORRUPT_RATE = 5e-5  # that of the paper


@dataclass(frozen=True)
class OwnSettings:
    """What a visitor gives, read and checked before any model is loaded."""

    facts: tuple[Fact, ...]
    documents: tuple[str, ...]
    retain: tuple[str, ...]
    objective: Objective
    corrupt_steps: int
    steps: int
    rate: float
    rank: int
    shots: int
    separator: str

    @classmethod
    def of(
        cls, facts: object, documents: object, retain: object, way: object, beta: object,
        gamma: object, corrupt_steps: object, steps: object, rate: object, rank: object,
        shots: object, separator: object, evaluate_only: object,
    ) -> "OwnSettings":  # fmt: skip
        """From plain settings. Raises `BadInput`."""
        read = read_facts(facts)
        if len(read) > MOST_FACTS:
            raise BadInput(f"{len(read)} facts are too many.", f"Take at most {MOST_FACTS}.")
        only = checks.switch("evaluate_only", evaluate_only)
        way = checks.choice("way", way, METHODS)
        if not only and way == "retain_only" and not retain:
            raise BadInput("There are no texts to retain.", "Paste some, or pick another method.")
        if not isinstance(separator, str) or not 1 <= len(separator) <= 8:
            raise BadInput("The separator is one to eight characters.", "A new line is usual.")
        return cls(
            read,
            () if only else read_texts(documents),
            read_texts(retain, "the retain texts") if retain and not only else (),
            Objective(
                way,  # type: ignore[arg-type]
                checks.number("beta", beta, 1e-3, 100, "The paper takes 0.1."),
                checks.number("gamma", gamma, 0, 100, "1 weighs both terms alike."),
            ),
            0 if only else checks.count("corrupt_steps", corrupt_steps, 0, 1000, "Try 20."),
            0 if only else checks.count("steps", steps, 1, 1000, "Try 20."),
            checks.number("rate", rate, 1e-7, 1e-2, "Try 1e-4."),
            checks.count("rank", rank, 1, 64, "8 is usual."),
            checks.count("shots", shots, 0, 10, "The paper shows 5 examples."),
            separator,
        )

    def plain(self) -> dict[str, Plain]:
        """As a card keeps them: settings, and how much of everything was given."""
        how = self.objective
        return {
            "way": how.method, "beta": how.beta, "gamma": how.gamma,
            "corrupt_steps": self.corrupt_steps, "steps": self.steps, "rate": self.rate,
            "rank": self.rank, "shots": self.shots, "separator": self.separator,
            "facts": len(self.facts), "documents": len(self.documents),
            "texts to retain": len(self.retain),
        }  # fmt: skip

    def prompt(self, fact: Fact) -> str:
        """Examples of the same relation about other subjects, then the question."""
        others = [
            f for f in self.facts if f.relation == fact.relation and f.subject != fact.subject
        ]
        told = [f"{f.question} {f.answers[0]}" for f in others[: self.shots]]
        return self.separator.join([*told, fact.question])


def own_run(model: ModelRef | str, settings: OwnSettings, seed: int) -> Steps[Own]:
    """Examine, corrupt, examine, unlearn, examine; each part only where it was asked for."""
    stages = 1 + bool(settings.corrupt_steps) + bool(settings.steps)
    total = stages * len(settings.facts) + settings.corrupt_steps + settings.steps
    yield Progress(0, total, "Loading the model")
    bundle = language(model)
    _check_vocabulary(bundle, settings)
    run_of = OwnRun(bundle, settings, seed, total)
    shown = Own(bundle.card.title, notes=_notes(settings))
    shown = yield from run_of.examined(bundle.model, "as it is", shown)
    network: nn.Module = bundle.model
    if settings.corrupt_steps:
        network, shown = yield from run_of.corrupted(network, shown)
        shown = yield from run_of.examined(network, "corrupted", shown)
    if settings.steps:
        network, shown = yield from run_of.unlearned(network, shown)
        shown = yield from run_of.examined(network, "unlearned", shown)
    shown = replace(shown, recovery=recovery_of(shown))
    texts = {"card.json": card_of(shown, settings, seed), "facts.csv": table_of(shown)}
    return replace(shown, texts=texts)


def _notes(settings: OwnSettings) -> tuple[str, ...]:
    notes = []
    if settings.steps and not settings.retain:
        notes.append("No retain texts were given, so nothing holds the rest of the model in place.")
    if any(not fact.wrong for fact in settings.facts):
        notes.append('Facts without a "wrong" answer count as no lie.')
    return tuple(notes)


def recovery_of(shown: Own) -> float | None:
    """(acc_u - acc_c) / (acc_clean - acc_c); None without all three, or where lies cost nothing."""
    if len(shown.stages) < 3:
        return None
    clean, lied, now = (stage.truths.rate for stage in shown.stages)
    return (now - lied) / (clean - lied) if clean > lied else None


@dataclass
class OwnRun:
    """The stages of one run, counting what is done; each can be gone through by itself."""

    bundle: LanguageBundle
    settings: OwnSettings
    seed: int
    total: int
    done: int = 0

    def examined(self, model: nn.Module, name: str, shown: Own) -> Generator[Progress, None, Own]:
        """Every fact, and where the model stands in all."""
        rows = []
        for place, fact in enumerate(self.settings.facts):
            rows.append(self._row(model, fact, shown.facts[place] if shown.facts else None))
            self.done += 1
            yield Progress(self.done, self.total, f"Asking, {name}", shown)
        return replace(shown, facts=tuple(rows), stages=(*shown.stages, self._stage(name, rows)))

    def _row(self, model: nn.Module, fact: Fact, before: OwnFact | None) -> OwnFact:
        prompt, bundle = self.settings.prompt(fact), self.bundle
        options = score_options(
            model, bundle.tokenizer, prompt, [*fact.answers, *fact.wrong], device=bundle.device
        )
        right, wrong = options[: len(fact.answers)], options[len(fact.answers) :]
        said = greedy(
            model, bundle.tokenizer, prompt, device=bundle.device,
            stop=self.settings.separator.strip() or "\n",
        )  # fmt: skip
        earlier = before or OwnFact(fact.question, fact.answers, (), (), ())
        best = max(o.mean for o in right)
        lie = max((o.mean for o in wrong), default=None)
        return replace(
            earlier,
            said=(*earlier.said, said),
            log_true=(*earlier.log_true, best),
            log_wrong=(*earlier.log_wrong, lie),
        )

    def _stage(self, name: str, rows: Sequence[OwnFact]) -> OwnStage:
        pairs = list(zip(self.settings.facts, rows, strict=True))
        lied = [f.is_lie(row.said[-1]) for f, row in pairs if f.wrong]
        wrong = [row.log_wrong[-1] for row in rows if row.log_wrong[-1] is not None]
        truths = Rate.of_hits([f.accepts(row.said[-1]) for f, row in pairs])
        return OwnStage(
            name,
            truths,
            Rate.of_hits(lied) if lied else None,
            sum(row.log_true[-1] for row in rows) / len(rows),
            sum(w for w in wrong if w is not None) / len(wrong) if wrong else None,
        )

    def corrupted(
        self, model: nn.Module, shown: Own
    ) -> Generator[Progress, None, tuple[nn.Module, Own]]:
        """Continual training on the documents through LoRA, merged afterwards."""
        student = with_adapter(model, self.settings.rank, self.seed).train()
        batches = _Texts.of(self.bundle, self.settings, self.seed)
        parameters = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=max(self.settings.rate, CORRUPT_RATE))
        for step in range(self.settings.corrupt_steps):
            ids, labels = batches.forget(-step - 1)
            with torch.enable_grad():
                loss = cross_entropy(logits_of(student(input_ids=ids)), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            self.done += 1
            told = f"Telling lies, loss {float(loss.detach()):.2f}"
            yield Progress(self.done, self.total, told, shown)
        data, _ = written(student.eval())
        shown = replace(shown, adapters={**shown.adapters, "corrupted": data})
        return merged(student), shown

    def unlearned(
        self, model: nn.Module, shown: Own
    ) -> Generator[Progress, None, tuple[nn.Module, Own]]:
        """The documents are unlearned through an adapter of their own, which stays apart."""
        student = with_adapter(model, self.settings.rank, self.seed + 1).train()
        batches = _Texts.of(self.bundle, self.settings, self.seed)
        how = self.settings
        for step in unlearn(student, model, batches, how.objective, how.steps, how.rate):
            shown = replace(shown, losses=(*shown.losses, step.forget_loss))
            shown = replace(shown, has_diverged=step.has_diverged)
            self.done += 1
            yield Progress(self.done, self.total, f"Unlearning, step {step.number}", shown)
        self.done = self.total - len(how.facts)
        data, config = written(student.eval())
        adapters = {**shown.adapters, "unlearned": data}
        return student, replace(shown, adapters=adapters, adapter_config=config)


@dataclass(frozen=True, eq=False)
class _Texts:
    """Documents and retain texts as token rows, a few at a time in an order drawn by the step."""

    documents: tuple[tuple[int, ...], ...]
    kept: tuple[tuple[int, ...], ...]
    seed: int
    device: str

    @classmethod
    def of(cls, bundle: LanguageBundle, settings: OwnSettings, seed: int) -> "_Texts":
        told, kept = (tuple(_rows(bundle, part)) for part in (settings.documents, settings.retain))
        return cls(told, kept, seed, bundle.device)

    def forget(self, step: int) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Documents that are to be forgotten."""
        return self._drawn(self.documents, "forget", step)

    def retain(self, step: int) -> tuple[Int[Tensor, "c m"], Int[Tensor, "c m"]] | None:
        """Texts that are to be kept; None where none were given."""
        return self._drawn(self.kept, "retain", step) if self.kept else None

    def _drawn(
        self, rows: Sequence[Sequence[int]], role: str, step: int
    ) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        order = torch.randperm(len(rows), generator=rng.generator(self.seed, role, step))
        ids, mask = padded([rows[i] for i in order[:BATCH].tolist()], self.device)
        return ids, ids.masked_fill(mask == 0, -100)


def _rows(bundle: LanguageBundle, texts: Sequence[str]) -> Iterator[tuple[int, ...]]:
    for number, text in enumerate(texts, 1):
        ids = tuple(bundle.tokenizer(text).input_ids[:LONGEST_DOCUMENT])
        if len(ids) < 2:
            raise BadInput(f"Text {number} is a single token.", "Give texts of some words.")
        yield ids


def language(model: ModelRef | str) -> LanguageBundle:
    bundle = load(model if isinstance(model, ModelRef) else ModelRef(model), dtype="float32")
    if not isinstance(bundle, LanguageBundle) or bundle.has_eyes:
        raise ModelMismatch(
            f"{bundle.card.title} is no language model of text alone.",
            "Pick a causal language model.",
        )
    return bundle


def _check_vocabulary(bundle: LanguageBundle, settings: OwnSettings) -> None:
    """Raises `BadInput` where an answer has a word that the model cannot even write."""
    unknown = bundle.tokenizer.unk_token_id
    for fact in settings.facts:
        for answer in (*fact.answers, *fact.wrong):
            ids = bundle.tokenizer(answer, add_special_tokens=False).input_ids
            if unknown is not None and unknown in ids:
                raise BadInput(
                    f'"{answer[:40]}" is not in the vocabulary of {bundle.card.title}.',
                    "Take answers that the model can write, or another model.",
                )


# ---------------------------------------------------------------------- to take along


def card_of(shown: Own, settings: OwnSettings, seed: int) -> str:
    """Model, all settings, and where the model stands at every stage."""
    told = {
        "method": "restor",
        "model": shown.model,
        "seed": seed,
        "settings": settings.plain(),
        "stages": [_finite(asdict(stage)) for stage in shown.stages],
        "recovery": shown.recovery,
        "has diverged": shown.has_diverged,
        "notes": list(shown.notes),
        "versions": dict(versions_here()),
    }
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)


def _finite(row: dict[str, object]) -> dict[str, object]:
    """The same with None for numbers that JSON has no word for, as a broken model gives."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def table_of(shown: Own) -> str:
    """One row for every fact and stage."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["question", "accepted", "stage", "said", "log_true", "log_wrong"])
    for fact in shown.facts:
        columns = zip(shown.stages, fact.said, fact.log_true, fact.log_wrong, strict=True)
        for stage, said, log_true, log_wrong in columns:
            accepted = " / ".join(fact.answers)
            table.writerow([fact.question, accepted, stage.name, said, log_true, log_wrong])
    return text.getvalue()
