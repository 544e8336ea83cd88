"""What REVERSE is measured against on the same checkpoint: cutting, and contrast with a blank.

* refuse: say nothing of a phrase with P(UN) > tau, and put nothing in its place;
* truncate: end the answer before the first such phrase;
* contrast: no verification at all; what the model would say without the picture counts against a
  word (VCD, Leng et al. 2023, with a grey picture in the place of a noisy one).
"""

from collections.abc import Sequence

import numpy as np
import torch

from engine.models.language import Cursor, LanguageBundle, Prompt
from engine.verifying.retrospective_resampling.results import Judged
from engine.verifying.retrospective_resampling.tags import rendered

ALPHA, BETA = 1.0, 0.1


def refused(judged: Sequence[Judged], tau: float) -> str:
    """The phrases that are not doubted, one after the other."""
    return " and ".join(phrase.text for phrase in judged if phrase.p_un <= tau)


def truncated(judged: Sequence[Judged], tau: float) -> str:
    """The phrases before the first doubted one."""
    places = [place for place, phrase in enumerate(judged) if phrase.p_un > tau]
    return " and ".join(phrase.text for phrase in judged[: places[0] if places else None])


def contrasted(bundle: LanguageBundle, prompt: Prompt, max_new_tokens: int) -> tuple[str, int]:
    """Greedy words by (1 + alpha) log p(picture) - alpha log p(blank), and how many tokens.

    Only words with at least beta times the likeliest one's probability take part (VCD, eq. 3).
    """
    # Zeros are the mean of the pictures that the vision tower was trained on: grey.
    blank = {
        name: torch.zeros_like(tensor) if name == "pixel_values" else tensor
        for name, tensor in prompt.pixels.items()
    }
    seeing, blind = Cursor(bundle, prompt.pixels), Cursor(bundle, blank)
    ids = prompt.ids
    logits, other = seeing.read(ids), blind.read(ids)
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        likely = logits.log_softmax(-1)
        scores = (1 + ALPHA) * likely - ALPHA * other.log_softmax(-1)
        scores[likely < likely.max() + np.log(BETA)] = -torch.inf
        token = int(scores.argmax())
        if token in bundle.end_tokens:
            break
        answer.append(token)
        logits, other = seeing.read([token]), blind.read([token])
    text = rendered(str(bundle.tokenizer.decode(answer, skip_special_tokens=True)))
    return text, len(answer)
