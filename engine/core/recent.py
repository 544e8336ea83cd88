"""The values last asked for, by key: what a visitor asks for twice is not made twice."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MEGABYTES = 64


class Recent(Generic[T]):
    """At most `most` values of together `megabytes`; the ones used longest ago are dropped.

    The newest one stays whatever it weighs, or a large model would be edited anew at every click.
    """

    def __init__(self, most: int, megabytes: int = MEGABYTES) -> None:
        self.most, self.room = most, megabytes * 1_000_000
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not there."""
        kept = self.peek(key)
        if kept is None:
            kept = make()
            self.put(key, kept)
        return kept

    def peek(self, key: Hashable) -> T | None:
        """The value of a key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._kept[key] = value, weight(value)
            self._kept.move_to_end(key)
            while len(self._kept) > self.most or (len(self._kept) > 1 and self.bytes > self.room):
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    @property
    def bytes(self) -> int:
        """What the numbers in all the values weigh."""
        return sum(size for _, size in self._kept.values())


def weight(value: object) -> int:
    """Bytes of the arrays and tensors in a value, at any depth of containers and dataclasses."""
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, bytes | bytearray):
        return len(value)
    if is_dataclass(value):
        return sum(weight(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(weight(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(weight(item) for item in value)
    return 0
