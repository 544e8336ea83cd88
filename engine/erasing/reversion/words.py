"""A learnt word: one row of the token table. Beside the model, as text, and as a file.

told = with_words(bundle, [Word("<R>", row)])       the model that knows it; the base is as it was
Word.parse(word.text())                             "<R>:Zm9v..." for recipes and links
read_file(write_file([word]).data)                  as textual inversion files are laid out
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.models.diffusion import DiffusionBundle, token_table, with_tokens
from engine.models.library import ASSETS, with_tensors
from engine.models.tensor_file import TensorFile

PLACEHOLDER = re.compile(r"[^\s:;=]{1,40}")
SHIPPED = "relations"
LARGEST_FILE = 2_000_000
FILE_NAME = "learned_embeds.safetensors"
PICKLED = (b"PK\x03\x04", b"\x80")  # how torch.save and pickle begin


@dataclass(frozen=True)
class Word:
    """A new token and its row; `note` says where it comes from, where that matters."""

    token: str
    row: Float[Tensor, " d"]
    note: str = field(default="", compare=False)

    def text(self) -> str:
        """The word as text: its token and the bits of its row."""
        data = self.row.detach().cpu().float().numpy().astype("<f4").tobytes()
        return f"{self.token}:{base64.urlsafe_b64encode(data).decode().rstrip('=')}"

    @classmethod
    def parse(cls, text: str) -> "Word":
        """The word in such a text. Raises `BadInput`."""
        token, _, data = text.rpartition(":")
        try:
            padded = data + "=" * (-len(data) % 4)
            row = np.frombuffer(base64.urlsafe_b64decode(padded.encode("ascii")), "<f4")
        except (ValueError, binascii.Error, UnicodeEncodeError) as error:
            raise _no_word(text) from error
        if not PLACEHOLDER.fullmatch(token) or not row.size or not np.isfinite(row).all():
            raise _no_word(text)
        return cls(token, torch.from_numpy(row.copy()))


def words_of(text: str, shipped: Mapping[str, Path] | None = None) -> tuple[Word, ...]:
    """The words in a text, between semicolons: shipped relations by name, others as `Word.text`.

    "<S>=inside" gives a shipped one another token, so that two fit in one prompt.
    """
    files = shipped_files() if shipped is None else shipped
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        token, mark, name = part.partition("=")
        name, token = (name.strip(), token.strip()) if mark else (part, "")
        if name in files:
            word = shipped_word(name, files)
            found.append(replace(word, token=token) if token else word)
        else:
            found.append(Word.parse(part))
    tokens = [word.token.lower() for word in found]
    if len(set(tokens)) < len(tokens):
        raise BadInput(f"Two words have the token {found[0].token}.", 'Rename one: "<S>=inside".')
    if not found:
        raise BadInput("There is no word to use.", 'Learn one, or take "on top of".')
    return tuple(found)


# ---------------------------------------------------------------------- in a model


def table_name(bundle: DiffusionBundle) -> str:
    """The name of the token table in the bundle's model."""
    table = token_table(bundle)
    return next(name for name, weight in bundle.model.named_parameters() if weight is table)


def grown_table(bundle: DiffusionBundle, words: Sequence[Word]) -> Float[Tensor, "n d"]:
    """The token table with one row for each word at its end; the rows before it are as they were.

    Raises `ModelMismatch` when a word was learnt for embeddings of another width.
    """
    table = token_table(bundle).detach()
    for word in words:
        if len(word.row) != table.shape[1]:
            raise ModelMismatch(
                f"{word.token} has {len(word.row)} numbers, and this model's tokens have "
                f"{table.shape[1]}.",
                "Learn it again on this model.",
            )
    return torch.cat([table, torch.stack([word.row for word in words]).to(table)])


def with_words(bundle: DiffusionBundle, words: Sequence[Word]) -> DiffusionBundle:
    """A model that knows the words; every other tensor is shared with the base."""
    model = with_tensors(bundle.model, {table_name(bundle): grown_table(bundle, words)})
    return with_tokens(replace(bundle, model=model), [word.token for word in words])


def one_token(bundle: DiffusionBundle, word: str) -> int:
    """The token of a word that is one. Raises `BadInput` for any other."""
    tokenizer = bundle.tokenizers[0]
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] in (tokenizer.unk_token_id, tokenizer.eos_token_id):
        raise BadInput(
            f'"{word[:40]}" is {len(ids)} tokens to this model; the initialiser must be one.',
            'Take a short word such as "and".',
        )
    return ids[0]


def nearest(
    bundle: DiffusionBundle, row: Float[Tensor, " d"], count: int = 6
) -> tuple[tuple[str, float], ...]:
    """The whole words whose rows point most the same way, with the cosine."""
    tokenizer = bundle.tokenizers[0]
    table = token_table(bundle).detach().float()
    cosines = torch.nn.functional.cosine_similarity(row.to(table)[None], table).cpu()
    known = bundle.vocabulary.words if bundle.vocabulary else None
    found: list[tuple[str, float]] = []
    for index in cosines.argsort(descending=True).tolist():
        token = tokenizer.convert_ids_to_tokens(index)
        word = token.removesuffix("</w>")
        if token.endswith("</w>") and (known is None or word in known):
            found.append((word, float(cosines[index])))
        if len(found) == count:
            break
    return tuple(found)


# ---------------------------------------------------------------------- files


def write_file(words: Sequence[Word], metadata: Mapping[str, str] | None = None) -> TensorFile:
    """{token: row}, as `pipeline.load_textual_inversion` and web interfaces read it."""
    rows = {word.token: word.row.detach().float() for word in words}
    return TensorFile.of(FILE_NAME, rows, {"format": "pt", **(metadata or {})})


def read_file(data: bytes) -> tuple[Word, ...]:
    """The words in a textual inversion file of safetensors. Raises `BadInput` for any other."""
    if len(data) > LARGEST_FILE:
        raise BadInput("This file is too large for a learnt word.", "One row has a few kB.")
    try:
        tensors = TensorFile(FILE_NAME, data).read()
    except Exception as error:  # damaged files fail in many ways
        raise (_pickled() if data.startswith(PICKLED) else _no_file()) from error
    words = [
        Word(token, tensor.detach().float().reshape(-1).clone())
        for token, tensor in tensors.items()
        if _is_row(tensor)
    ]
    if not words or not all(PLACEHOLDER.fullmatch(word.token) for word in words):
        raise _no_file()
    return tuple(words)


def _is_row(tensor: Tensor) -> bool:
    is_one = tensor.ndim == 1 or (tensor.ndim == 2 and len(tensor) == 1)
    return is_one and tensor.numel() > 0 and bool(tensor.isfinite().all())


# ---------------------------------------------------------------------- shipped words


def shipped_files(folder: Path | None = None) -> dict[str, Path]:
    """The shipped relations by name ("on top of"), in the order of the alphabet."""
    folder = ASSETS / SHIPPED if folder is None else folder
    return {path.stem.replace("-", " "): path for path in sorted(folder.glob("*.safetensors"))}


def shipped_word(name: str, files: Mapping[str, Path] | None = None) -> Word:
    """A shipped relation. Raises `AssetMissing` where it is not there."""
    path = (shipped_files() if files is None else files).get(name)
    if path is None:
        raise AssetMissing(
            f'There is no shipped word for "{name[:40]}".',
            "Learn it, or make the shipped ones with: python -m engine.zoo build relations",
        )
    return read_file(path.read_bytes())[0]


def _no_word(text: str) -> BadInput:
    return BadInput(
        f'"{text[:40]}" is no learnt word.',
        'Give the name of a shipped one, such as "on top of", or the text of one that you learnt.',
    )


def _pickled() -> BadInput:
    return BadInput(
        "This is a pickled file, as learned_embeds.bin is; reading one can run its code.",
        "Save the embedding as safetensors and read that.",
    )


def _no_file() -> BadInput:
    return BadInput(
        "This file holds no learnt word.",
        "Take a textual inversion file: learned_embeds.safetensors.",
    )
