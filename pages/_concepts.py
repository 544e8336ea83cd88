"""What goes with a concept of the embedded world: what to draw instead, to watch, and to keep."""

from collections.abc import Sequence

import gradio as gr

from engine.world import vocabulary as words
from pages._recordings import Number

EMPTY_GUIDE = ('"" the empty text: damages other prompts here', " ")


def listed(text: str) -> list[str]:
    """The concepts of a field that takes several with commas between them."""
    return [part.strip().lower() for part in text[:300].split(",") if part.strip()]


def guides_of(text: str) -> list[tuple[str, str]]:
    """Guides to offer: categories of the word, its neighbours there, a blank, the empty text."""
    word = next(iter(listed(text)), "")
    word = words.SYNONYMS.get(word, word)
    found = [(f"{name}: its category", name) for name in words.CATEGORY_OF.get(word, ())]
    found += [(f"{name}: a neighbour", name) for name in _neighbours(word)[:3]]
    if (style := word.removesuffix(" style")) in words.STYLES:
        found += [(f"{name} style: a neighbour", f"{name} style") for name in _others(style)[:4]]
    return [*found, ("something", "something"), ("blank: an empty picture", "blank"), EMPTY_GUIDE]


def guides_for(text: str, guide: str) -> gr.Dropdown:
    """Offers the guides that suit the word; a guide that is still offered stays."""
    offered = guides_of(text)
    kept = guide if guide in [value for _, value in offered] else offered[0][1]
    return gr.Dropdown(choices=offered, value=kept)


def prompts_for(text: str, prompts: str) -> object:
    """Prompts that show what the concepts lose and what must stay.

    Prompts that begin with one of the concepts and name them all are left as they are, and so are
    those for a word that the world does not know.
    """
    concepts = listed(text)
    told = [_prompts(concept) for concept in concepts]
    stems, now = [_stem(concept) for concept in concepts], prompts.lower()
    begins = any(stem in now.partition(";")[0] for stem in stems)
    if not all(told) or (begins and all(stem in now for stem in stems)):
        return gr.skip()
    first = told[0] if len(told) == 1 else [*(one[0] for one in told), told[0][1], told[0][-1]]
    return "; ".join(first[:8])


def kept_for(text: str, kept: Sequence[str]) -> object:
    """The words to keep without those that are to go."""
    gone = {words.SYNONYMS.get(concept, concept) for concept in listed(text)}
    left = [word for word in kept if words.SYNONYMS.get(word, word) not in gone]
    return left if len(left) < len(kept) else gr.skip()


def still_seen(
    concepts: object,
    prompts: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
) -> Number | None:
    """In how many pictures of prompts that name a concept the judge sees it, before and after.

    `concepts` are those of a recipe, `before` and `after` what the judge says of each picture.
    None where no prompt names one, or the judge said nothing.
    """
    named = listed(concepts) if isinstance(concepts, str) else [str(one) for one in _list(concepts)]
    stems = [words.SYNONYMS.get(_stem(concept), _stem(concept)) for concept in named]
    asked = [place for place, prompt in enumerate(prompts) if any(s in prompt for s in stems)]
    if not asked or len(before) < len(prompts) or len(after) < len(prompts) or not any(before):
        return None
    seen = [sum(any(s in said[p] for s in stems) for p in asked) for said in (before, after)]
    counts = [f"{count} of {len(asked)}" for count in seen]
    return Number(f"pictures in which “{', '.join(stems)}” is seen", counts[1], counts[0])


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else []


def _prompts(concept: str) -> list[str]:
    """Two prompts that name it, a neighbour, and something else; none for an unknown word."""
    style = concept.removesuffix(" style")
    if style in words.STYLES:
        one, other = _others(style)[:2]
        return [
            f"a penguin in {style} style",
            f"a house in {style} style",
            f"a house in {one} style",
            f"a rose in {other} style",
        ]
    if (name := words.SYNONYMS.get(concept, concept)) not in words.OBJECTS:
        return []
    far = "cat" if "vehicle" in words.CATEGORY_OF[name] else "car"
    near = _neighbours(name)[0]
    shown = words.article(concept)
    return [shown, f"{shown} in sketch style", words.article(near), words.article(far)]


def _stem(concept: str) -> str:
    return concept.removesuffix(" style")


def _neighbours(name: str) -> list[str]:
    groups = words.CATEGORY_OF.get(name, ())
    return [other for other in words.CATEGORIES[groups[0]] if other != name] if groups else []


def _others(style: str) -> list[str]:
    return [name for name in words.STYLES if name != style]
