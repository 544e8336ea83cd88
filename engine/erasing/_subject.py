"""What is to be erased, and the prompts it is judged by.

The prompt sets are fixed, given the concept, and no method may train on them: a method gets the
concept, its anchor and a few words to keep; the kept prompts that are counted use other words.

    target       prompts that name the concept
    paraphrase   the same wish in other words: a synonym, where the world has one, or an order of
                 the sentence that the target prompts do not use
    near         other members of the concept's category (an animal for a cat, a drawn style for
                 neon)
    far          what has nothing to do with it
    empty        no text at all: guidance reads it at every step, so damage here hits all prompts
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.core.errors import BadInput
from engine.world import vocabulary as words
from engine.world.vocabulary import article

Head = Literal["subject", "style"]
Group = Literal["target", "paraphrase", "near", "far", "empty"]
GROUPS: tuple[Group, ...] = ("target", "paraphrase", "near", "far", "empty")

# Styles drawn with lines, and styles of filled areas: neighbours of one another.
_LINES = ("sketch", "neon", "blueprint")
_TARGET_FORMS = ("{}", "a picture of {}", "{} in plain style", "{} in neon style", "a sketch of {}")
_OTHER_FORMS = (
    "{} on a pink background",
    "in watercolor style, {}",
    "on a yellow background, {}",
    "in blueprint style, {}",
)
_KEPT_FORMS = ("{}", "a picture of {}", "{} in neon style", "a sketch of {}")


@dataclass(frozen=True)
class Ask:
    """One picture: its prompt, what it should show, and the group it counts in."""

    prompt: str
    shows: str
    group: Group


@dataclass(frozen=True)
class Subject:
    """A concept of the embedded world and what the erasing methods are told about it.

    `target` is the judge's word for it under `head`, `concept` the text to erase, `anchor` the text
    to draw instead, `keep` words that a method may hold in place; no kept prompt uses them.
    """

    head: Head
    target: str
    concept: str
    anchor: str
    keep: tuple[str, ...]

    @classmethod
    def of(cls, concept: str, anchor: str = "", keep: Sequence[str] = ()) -> "Subject":
        """The concept of a text: an object, a synonym of one, or "... style".

        Raises `BadInput` for what the judge cannot tell.
        """
        text = " ".join(concept.lower().split())
        style = text.removesuffix(" style")
        if style in words.STYLES and style != "plain":
            near, far = _styles(style)
            chosen = anchor.strip() or "plain style"
            kept = tuple(keep) or (f"{near[0]} style", f"{far[0]} style", *words.OBJECTS[::5])
            return cls("style", style, f"{style} style", chosen, kept)
        target = words.SYNONYMS.get(text, text)
        if target not in words.OBJECTS:
            known = f"{', '.join(words.OBJECTS[:6])}, … or neon style, sketch style, …"
            raise BadInput(
                f'The judge of the embedded world does not know "{concept[:40]}".',
                f"Take one of {known}",
            )
        chosen = anchor.strip() or words.CATEGORY_OF[target][0]
        near, far = _objects(target)
        kept = tuple(keep) or (*near[:3], *far[:6], "neon style", "sketch style")
        return cls("subject", target, target, chosen, kept)

    def asks(self, each: int = 8) -> tuple[Ask, ...]:
        """`each` pictures of every group, in the order of `GROUPS`; the empty prompt a quarter."""
        makers = {
            "target": self._targets,
            "paraphrase": self._paraphrases,
            "near": lambda: self._kept(0),
            "far": lambda: self._kept(1),
            "empty": lambda: itertools.repeat(Ask("", "", "empty")),
        }
        found: list[Ask] = []
        for group in GROUPS:
            count = max(each // 4, 1) if group == "empty" else each
            found += itertools.islice(makers[group](), count)
        return tuple(found)

    def groups(self) -> tuple[Group, ...]:
        """The groups whose pictures are counted as kept."""
        return ("near", "far")

    def says(self, text: str) -> bool:
        """Whether a text names the concept in its own words."""
        return re.search(rf"\b{re.escape(self.concept)}\b", text, re.IGNORECASE) is not None

    def _targets(self) -> Iterator[Ask]:
        if self.head == "style":
            named = (f"{article(name)} in {self.concept}" for name in _every_object())
        else:
            named = (form.format(article(self.target)) for form in itertools.cycle(_TARGET_FORMS))
        return (Ask(prompt, self.target, "target") for prompt in named)

    def _paraphrases(self) -> Iterator[Ask]:
        if self.head == "style":
            forms: tuple[str, ...] = ("{0} picture of {1}", "in {2} style, {1}")
            if self.target in ("sketch", "blueprint", "watercolor"):
                forms = ("a {2} of {1}", "{0} picture of {1}")
            names = itertools.islice(_every_object(), 3, None)
            prompts = (
                form.format(article(self.target), article(name), self.target)
                for name, form in zip(names, itertools.cycle(forms), strict=False)
            )
        else:
            synonym = words.SYNONYM_OF.get(self.target)
            nouns = (synonym,) if synonym else (self.target,)
            forms = _TARGET_FORMS[:4] + _OTHER_FORMS[:2] if synonym else _OTHER_FORMS
            both = itertools.cycle(itertools.product(forms, nouns))
            prompts = (form.format(article(noun)) for form, noun in both)
        return (Ask(prompt, self.target, "paraphrase") for prompt in prompts)

    def _kept(self, side: Literal[0, 1]) -> Iterator[Ask]:
        group: Group = "near" if side == 0 else "far"
        sets = _styles(self.target) if self.head == "style" else _objects(self.target)
        kept = {word.removesuffix(" style") for word in self.keep}
        # Words the methods were told to keep are left out, unless that leaves none.
        names = [name for name in sets[side] if name not in kept] or list(sets[side])
        if self.head == "style":
            pairs = zip(_every_object(), itertools.cycle(names), strict=False)
            asked = ((f"{article(thing)} in {name} style", name) for thing, name in pairs)
        else:
            forms = itertools.cycle(_KEPT_FORMS)
            pairs = zip(itertools.cycle(names), forms, strict=False)
            asked = ((form.format(article(name)), name) for name, form in pairs)
        return (Ask(prompt, shows, group) for prompt, shows in asked)


def _objects(target: str) -> tuple[list[str], list[str]]:
    """The other members of its categories, and the objects outside them."""
    members = {
        name for category in words.CATEGORY_OF[target] for name in words.CATEGORIES[category]
    }
    near = [name for name in words.OBJECTS if name in members and name != target]
    far = [name for name in words.OBJECTS if name not in members]
    # Every third first, so that a few of them come from several categories.
    return near, [name for start in range(3) for name in far[start::3]]


def _styles(style: str) -> tuple[list[str], list[str]]:
    is_line = style in _LINES
    others = [name for name in words.STYLES if name != style]
    near = [name for name in others if (name in _LINES) == is_line]
    return near, [name for name in others if name not in near and name != "plain"]


def _every_object() -> Iterator[str]:
    """Objects in an order that mixes the categories, without end."""
    return itertools.cycle(name for start in range(5) for name in words.OBJECTS[start::5])
