"""The golden cases: arrays made by the published code of UCE and RECE, compared with this one.

    python -m pytest tests/erasing -m golden

Tolerances: 1e-12 for the edit in float64; 1e-9 (embeddings) and 1e-10 (weights) for the epochs;
5e-6 for the last-token rule, whose official code inverts in float32; 1e-7 for "surrogate_1st",
which is ill-conditioned.
"""

from collections.abc import Iterator

import numpy as np
import torch

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece.token_rows import Encoded, Rule, kept_rows, pair


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def texts(arrays: Arrays, indices: np.ndarray) -> list[Encoded]:
    """The encoded texts of these indices."""
    return [
        Encoded(
            str(arrays["texts"][i]), torch.from_numpy(arrays["emb"][i]), int(arrays["lens"][i]) - 2
        )
        for i in indices
    ]


def weights(arrays: Arrays, prefix: str = "W0") -> list[Tensor]:
    """The matrices prefix_0, prefix_1, ..."""
    count = sum(key.startswith("W0_") for key in arrays)
    return [torch.from_numpy(arrays[f"{prefix}_{i}"]) for i in range(count)]


def scales(arrays: Arrays) -> cf.Scales:
    names = ("erase_scale", "preserve_scale", "lamb")
    return cf.Scales(*(float(arrays[name]) for name in names))


def pairs_and_keep(arrays: Arrays, rule: Rule) -> tuple[list[cf.Pair], Tensor]:
    """The pairs to redirect and the Gram matrix of what is kept."""
    old, new = texts(arrays, arrays["erase"]), texts(arrays, arrays["guide"])
    found = [pair(a, b, rule) for a, b in zip(old, new, strict=True)]
    kept = [cf.gram(kept_rows(text, rule)) for text in texts(arrays, arrays["retain"])]
    return found, torch.stack(kept).sum(0)


def uce_map(arrays: Arrays) -> Tensor:
    return cf.redirect(*pairs_and_keep(arrays, "classic"), scales(arrays)).map


def _replace(arrays: Arrays) -> float:
    m = uce_map(arrays)
    edited = [
        (w @ m, w1) for w, w1 in zip(weights(arrays), weights(arrays, "W_replace"), strict=True)
    ]
    return max(largest(m, arrays["M_replace"]), *(largest(a, b) for a, b in edited))


def _replace_float32(arrays: Arrays) -> float:
    """What the official code gives when it runs in float32, as it is published."""
    m, truth = uce_map(arrays), weights(arrays, "W_replace_f32")
    return max(largest(w @ m, w1) for w, w1 in zip(weights(arrays), truth, strict=True))


def _tensor(arrays: Arrays) -> float:
    found = pairs_and_keep(arrays, "classic")
    edited = [w @ cf.redirect_orthogonal(w, *found, scales(arrays)) for w in weights(arrays)]
    return max(largest(a, b) for a, b in zip(edited, weights(arrays, "W_tensor"), strict=True))


def _last_token(arrays: Arrays) -> float:
    m = cf.redirect(*pairs_and_keep(arrays, "last"), scales(arrays)).map
    return largest(m, arrays["M_lasttoken"])


def _rece_epochs(arrays: Arrays) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Derived embeddings and the map so far, after each of three epochs."""
    m = uce_map(arrays)
    gram = cf.weight_gram(weights(arrays))
    keep = torch.stack([cf.gram(t.rows) for t in texts(arrays, arrays["retain_rece"])]).sum(0)
    found = cf.epochs(
        [t.rows for t in texts(arrays, arrays["erase"])],
        [t.rows for t in texts(arrays, arrays["guide_rece"])],
        keep,
        cf.Layers(gram, gram).mapped(m),
        cf.Scales(1.0, float(arrays["preserve_scale_rece"]), float(arrays["lamb_rece"])),
        count=3,
        reg=float(arrays["reg"]),
    )
    for derived, factor in found:
        m = m @ factor.map
        yield derived, m


def _derived(arrays: Arrays) -> float:
    return max(
        largest(torch.stack(derived), arrays[f"adv_ep{k}"])
        for k, (derived, _) in enumerate(_rece_epochs(arrays))
    )


def _epoch_weights(arrays: Arrays) -> float:
    return max(
        largest(w @ m, w1)
        for k, (_, m) in enumerate(_rece_epochs(arrays))
        for w, w1 in zip(weights(arrays), weights(arrays, f"W_rece_ep{k}"), strict=True)
    )


def _regularisers(arrays: Arrays) -> float:
    """The other derivations for the first concept, with the tolerance of the worst-conditioned."""
    gram = cf.weight_gram(weights(arrays))
    layers = cf.Layers(gram, gram).mapped(uce_map(arrays))
    concept = texts(arrays, arrays["erase"])[0].rows
    target = texts(arrays, arrays["guide"])[0].rows
    names: dict[str, cf.Regulariser] = {
        "surrogate_1st": "surrogate_1st",
        "surrogate_2nd": "surrogate_2nd",
        "surrogate_both": "surrogate_both",
        "standardreg": "standard",
    }
    reg = float(arrays["reg"])
    return max(
        largest(cf.derive(concept, layers, reg, regulariser, target), arrays[name])
        for name, regulariser in names.items()
    )


_CHECKS: tuple[Check, ...] = (
    ("UCE, replace", 1e-12, _replace),
    ("UCE, replace, official float32", 1e-5, _replace_float32),
    ("UCE, tensor", 1e-12, _tensor),
    ("UCE, last token", 5e-6, _last_token),
    ("RECE, derived embeddings of 3 epochs", 1e-9, _derived),
    ("RECE, weights after 3 epochs", 1e-10, _epoch_weights),
    ("RECE, other regularisers", 1e-7, _regularisers),
)
CHECKS = {"rece_small": _CHECKS, "rece_sdlike": _CHECKS}
