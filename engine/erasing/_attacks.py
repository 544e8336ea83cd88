"""Bringing an erased concept back, by what the attacker may touch.

    paraphrase   other words only: a prompt set, see `_subject`
    closed form  the embedding of the prompt, from the weights of both models, without a picture
    inversion    one new word, learned on the erased model from a few pictures of the concept

An embedding can be chosen freely only by someone who owns the model, so the last two are an upper
bound for what prompts can do. Each is fresh: made against the very model it attacks.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.errors import ModelMismatch
from engine.core.job import Progress
from engine.core.precision import at_home
from engine.core.shapes import Float, Tensor
from engine.erasing._eraser import Asked, Eraser
from engine.erasing._subject import Subject
from engine.models import diffusion as checkpoints
from engine.models import drawing
from engine.models.diffusion import Conditioning, DiffusionBundle, encode_picture
from engine.models.library import fork
from engine.world import vocabulary as words
from engine.world.scenes import Scene, draw
from engine.world.sprites import load_sprites

REG = 1e-3
PLACEHOLDER = "something"


def closed_form(
    bundle: DiffusionBundle, eraser: Eraser, prompts: list[str], *, reg: float = REG
) -> Asked:
    """Embeddings that make the erased keys and values say what the original ones said.

        c' = H^-1 X c,   H = reg I + sum W'^T W',   X = sum W'^T W     (RECE, section 3.3)

    over the cross-attention projections W of the original `bundle` and W' of the erased model. An
    erasure that leaves the projections alone is met with the plain embedding.
    """
    old, new = bundle.model.state_dict(), eraser.weights()
    cond = checkpoints.encode_prompt(bundle, prompts)
    width = cond.tokens.shape[-1]
    h = reg * torch.eye(width, dtype=torch.float64)
    x = torch.zeros(width, width, dtype=torch.float64)
    names = [name for name in old if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))]
    plain, *here = at_home([cond.tokens, *(s[name] for name in names for s in (old, new))])
    for w, edited in zip(here[::2], here[1::2], strict=True):
        w, edited = w.double(), edited.double()
        h, x = h + edited.T @ edited, x + edited.T @ w
    # c + H^-1 (X - H) c: an unchanged model gives the plain embedding but for reg
    tokens = plain.double() @ torch.linalg.solve(h, x - h).T
    derived = (plain.double() + tokens).to(cond.tokens)
    return Asked(tuple(prompts), Conditioning(derived, cond.pooled))


@dataclass(frozen=True)
class NewWord:
    """A row for the table of the text encoder, in the place of the word "something"."""

    bundle: DiffusionBundle
    place: int
    row: Float[Tensor, " d"]

    def asked(self, prompts: list[str]) -> Asked:
        """Prompts with this word wherever they say "something"."""
        with torch.no_grad():
            return Asked(tuple(prompts), encoded(self.bundle, prompts, self.place, self.row))


def inversion(
    bundle: DiffusionBundle,
    eraser: Eraser,
    subject: Subject,
    seed: int,
    *,
    iterations: int = 50,
    batch: int = 4,
    learning_rate: float = 0.1,
) -> Generator[Progress, None, NewWord]:
    """Textual inversion (Gal et al. 2022) on the erased model, from four rendered pictures.

    The rate is relative to the size of the word that the row begins from.
    """
    wide = drawing.in_float32(bundle)
    place, first = _place(wide)
    row = first.clone().requires_grad_(True)
    size = float(first.square().mean().sqrt())
    optimizer = torch.optim.Adam([row], lr=learning_rate * size)
    x0 = encode_picture(wide, renders(subject, seed)).to(wide.device)
    path, draw_t = drawing.path_of(wide), np.random.default_rng([seed, 2])
    prompt = prompts_with_word(subject, 1)
    for done in range(iterations):
        chosen = torch.from_numpy(draw_t.integers(len(x0), size=batch))
        t = draw_t.integers(int(path.t_max) + 1, size=batch).astype(np.float64)
        noise = rng.noise((batch, *x0.shape[1:]), rng.generator(seed, "inversion", done))
        noise = noise.to(x0.device)
        a, s = (
            torch.as_tensor(level(t), dtype=x0.dtype, device=x0.device).view(-1, 1, 1, 1)
            for level in (path.a, path.s)
        )
        clean = x0[chosen]
        truth = {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}
        with torch.enable_grad():
            cond = encoded(wide, prompt * batch, place, row)
            times = torch.as_tensor(t, dtype=torch.float32, device=x0.device)
            predicted = eraser.predict(
                Asked(tuple(prompt * batch), cond), a * clean + s * noise, times
            )
            loss = (predicted - truth[wide.prediction_type]).square().mean()
            (row.grad,) = torch.autograd.grad(loss, [row])
        optimizer.step()
        yield Progress(
            done + 1, iterations, f"{eraser.name}: learning a word, {float(loss.detach()):.3f}"
        )
    return NewWord(wide, place, row.detach())


def prompts_with_word(subject: Subject, count: int) -> list[str]:
    """Prompts in which the new word stands for the concept; the concept itself is not named."""
    if subject.head == "style":
        names = words.OBJECTS[::4]
        forms = [f"{words.article(name)} in {PLACEHOLDER} style" for name in names]
    else:
        forms = [f"a picture of {PLACEHOLDER}", PLACEHOLDER, f"{PLACEHOLDER} in plain style"]
    return [forms[index % len(forms)] for index in range(count)]


def renders(subject: Subject, seed: int, count: int = 4) -> np.ndarray:
    """Pictures of the concept that the attacker owns: uint8 n x 64 x 64 x 3."""
    generator = np.random.default_rng([seed, 3])
    sprites, found = load_sprites(), []
    for index in range(count):
        if subject.head == "style":
            scene = Scene(subject.target, "white", words.OBJECTS[(5 * index) % len(words.OBJECTS)])
        else:
            scene = Scene("plain", "white", subject.target)
        found.append(draw(scene, sprites, generator))
    return np.stack(found)


def encoded(
    bundle: DiffusionBundle, prompts: list[str], place: int, row: Float[Tensor, " d"]
) -> Conditioning:
    """Token states of prompts when one row of the table is another; differentiable in that row."""
    encoder = fork(bundle.text_encoders[0])
    table = _table(encoder)

    def put(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.where((given[0] == place)[..., None], row, out)

    table.register_forward_hook(put)
    return Conditioning(encoder(checkpoints.token_ids(bundle, prompts)).last_hidden_state)


def _place(bundle: DiffusionBundle) -> tuple[int, Float[Tensor, " d"]]:
    """The number of the placeholder's token and its row now."""
    if len(bundle.text_encoders) > 1:
        raise ModelMismatch(
            "The learned word works for models with one text encoder.",
            "Leave this attack out for XL models.",
        )
    place = bundle.tokenizers[0](PLACEHOLDER).input_ids[-2]
    table = _table(bundle.text_encoders[0])
    return place, table.weight[place].detach()


def _table(encoder: nn.Module) -> nn.Embedding:
    """The token table of a text encoder."""
    (table,) = (m for name, m in encoder.named_modules() if name.endswith("token_embedding"))
    assert isinstance(table, nn.Embedding)
    return table
