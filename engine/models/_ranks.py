"""The scale of each LoRA module as PEFT reads it from an adapter's config.

    scale = alpha / r, or alpha / sqrt(r) with use_rslora (Kalajdzievski 2023)

`alpha_pattern` and `rank_pattern` map regular expressions to other numbers. One of them names a
module when it matches all of its name, or its end after a dot; the first one in the file wins.

The expressions are a stranger's. PEFT's own matching (peft.utils.other.get_pattern_key) runs them
with `re`, which some expressions keep busy for years; here `regex` runs the same ones and gives up.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import regex

from engine.core.errors import BadInput, OutOfBudget

# PEFT's defaults of r and lora_alpha.
RANK = ALPHA = 8
MOST_PATTERNS, LONGEST_PATTERN = 20_000, 500
SECONDS = 5.0


@dataclass
class Ranks:
    """What a config says of ranks and alphas; `seconds` are left for its expressions."""

    name: str
    r: float
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    seconds: float = field(default_factory=lambda: SECONDS)
    _compiled: dict[str, "regex.Pattern[str]"] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str) -> "Ranks":
        """Those of a config. Raises `BadInput` for what is no number or no expression."""
        numbers = {"r": config.get("r", RANK), "lora_alpha": config.get("lora_alpha", ALPHA)}
        patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
        for key, pattern in {**patterns, "lora_alpha and r": numbers}.items():
            sound = isinstance(pattern, Mapping) and all(map(_is_number, pattern.values()))
            if not sound or len(pattern) > MOST_PATTERNS:
                raise BadInput(f"{key} in the config of {name}: no numbers.", "Export it again.")
        ranks, alphas = (
            {key: float(value) for key, value in pattern.items()} for pattern in patterns.values()
        )
        usual = float(numbers["r"]), float(numbers["lora_alpha"])
        return cls(name, *usual, bool(config.get("use_rslora")), ranks, alphas)

    def scale(self, module: str, rank: int) -> float:
        """The scale of a module whose factors have this rank.

        Raises `BadInput` where the config states another rank, which PEFT cannot load either.
        """
        stated = int(self._value(self.rank_pattern, module, self.r))
        if stated != rank:
            raise BadInput(
                f"{module[:80]} in {self.name} has rank {rank}, and the config says {stated}.",
                "Take weights and config from the same export.",
            )
        alpha = float(self._value(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _value(self, patterns: Mapping[str, float], module: str, usual: float) -> float:
        matching = (key for key in patterns if self._matches(key, module))
        return patterns.get(next(matching, module), usual)

    def _matches(self, pattern: str, module: str) -> bool:
        compiled = self._compiled.get(pattern)
        if compiled is None:
            compiled = self._compiled[pattern] = _compiled(pattern, self.name)
        start = time.monotonic()
        try:
            return compiled.match(module, timeout=max(self.seconds, 1e-3)) is not None
        except TimeoutError:
            raise OutOfBudget(
                f'The pattern "{pattern[:60]}" in the config of {self.name} takes too long.',
                "Write the names of the modules out.",
            ) from None
        finally:
            self.seconds -= time.monotonic() - start


def _compiled(pattern: str, name: str) -> "regex.Pattern[str]":
    whole = rf"(.*\.)?({pattern})$"
    try:
        if len(pattern) > LONGEST_PATTERN:
            raise ValueError("too long")
        re.compile(whole)  # what is no expression for PEFT is none here
        return regex.compile(whole)
    except (re.error, regex.error, ValueError, RecursionError, OverflowError):
        raise BadInput(
            f'The pattern "{pattern[:60]}" in the config of {name} is no regular expression.',
            "Write the names of the modules out.",
        ) from None


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # type: ignore[arg-type]
