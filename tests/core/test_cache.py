from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engine.core.cache import LruCache, bytes_of
from engine.core.errors import BadInput


@dataclass(frozen=True)
class Found:
    curve: list
    parts: dict
    title: str = "ten"


def test_arrays_tensors_and_texts_are_weighed_wherever_they_lie():
    value = Found([np.zeros(10), (np.zeros(5, np.uint8),)], {"w": torch.zeros(3, 2)}, "ten")
    assert bytes_of(value) == 80 + 5 + 24 + 3
    assert bytes_of(None) == bytes_of(3.0) == 0


def test_the_least_recently_used_is_dropped_by_number():
    kept: LruCache[int] = LruCache(most=2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.peek("a") == 1
    kept.put("c", 3)
    assert kept.peek("b") is None
    assert (kept.peek("a"), kept.peek("c")) == (1, 3)


def test_the_least_recently_used_is_dropped_by_weight():
    kept: LruCache[np.ndarray] = LruCache(1)
    for number in range(20):
        kept.put(number, np.zeros(100_000, np.uint8))
        assert kept.bytes <= 1_000_000
    assert kept.peek(10) is not None
    assert kept.peek(9) is None


def test_a_value_heavier_than_the_room_is_kept_alone():
    kept: LruCache[np.ndarray] = LruCache(1)
    kept.put("small", np.zeros(10))
    kept.put("large", np.zeros(200_000))
    assert kept.peek("small") is None
    assert kept.peek("large") is not None
    kept.put("small", np.zeros(10))
    assert kept.peek("large") is None


def test_what_is_there_is_not_made_again_and_the_same_key_is_weighed_once():
    kept: LruCache[np.ndarray] = LruCache()
    first = kept.get("a", lambda: np.zeros(10))
    assert kept.get("a", lambda: np.ones(10)) is first
    kept.put("a", np.zeros(20))
    assert kept.bytes == 160


def test_the_progress_of_a_generator_is_passed_on_while_it_makes_the_value():
    kept: LruCache[int] = LruCache()

    def make():
        yield "half"
        return 7

    assert list(kept.steps("a", make)) == ["half"]
    assert kept.peek("a") == 7
    assert list(kept.steps("a", make)) == []


def test_a_limit_that_cannot_be_read_is_told_to_all_who_ask():
    def unreadable() -> float:
        raise BadInput("no number")

    kept: LruCache[int] = LruCache(unreadable)
    for _ in range(2):
        with pytest.raises(BadInput, match="no number"):
            kept.get("a", lambda: 1)
