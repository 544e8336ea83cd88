"""A cache bounded in bytes: what is asked for twice is made once.

    _EDITS: LruCache[Edit] = LruCache(megabytes=64)

    edit = _EDITS.get(key, lambda: solve(bundle, settings))
    learnt = yield from _LEARNT.steps(key, lambda: learn(bundle, settings, seed))

The first is for values that are made in one go, the second for generators that tell their progress.
This module is light: no torch.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Generic, TypeVar

E = TypeVar("E")
T = TypeVar("T")

MEGABYTES = 64


def bytes_of(value: object) -> int:
    """Bytes of the arrays, tensors and texts in a value, in any containers and dataclasses."""
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(bytes_of(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(bytes_of(item) for item in value)
    return 0


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    size: int
    base: Hashable | None


class LruCache(Generic[T]):
    """Values by key; beyond `megabytes`, or `most` values, the least recently used are dropped.

    A value that rests `on` another one, as an edit on its base, keeps it: dropping the base would
    free nothing. One value that alone is over the limit is kept until another takes its place, or a
    large one would be made anew at every click. Memory is freed when the last user lets go.
    """

    def __init__(
        self,
        megabytes: int | float | Callable[[], float] = MEGABYTES,
        *,
        most: int | None = None,
    ) -> None:
        self._megabytes, self._most = megabytes, most
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._making: dict[Hashable, Future[T]] = {}

    @cached_property
    def limit_bytes(self) -> int:
        """The limit, asked for when it is first needed where it was given as a function."""
        megabytes = self._megabytes() if callable(self._megabytes) else self._megabytes
        return round(megabytes * 1e6)

    def get(
        self,
        key: Hashable,
        make: Callable[[], T],
        *,
        size: Callable[[T], int] = bytes_of,
        on: Hashable | None = None,
    ) -> T:
        """The value of a key, made once however many ask at once.

        An exception of `make` reaches all who wait, and is not kept.
        """
        with self._lock:
            if key in self._entries:
                return self._used(key)
            future = self._making.get(key)
            is_mine = future is None
            if future is None:
                future = self._making[key] = Future()
        if is_mine:
            self._make(key, future, make, size, on)
        return future.result()

    def steps(
        self, key: Hashable, make: Callable[[], Generator[E, None, T]]
    ) -> Generator[E, None, T]:
        """The value of a key from a generator, whose events are passed on while it makes it."""
        if (kept := self.peek(key)) is not None:
            return kept
        value = yield from make()
        self.put(key, value)
        return value

    def peek(self, key: Hashable) -> T | None:
        """The value of a key, or None."""
        with self._lock:
            return self._used(key) if key in self._entries else None

    def put(
        self, key: Hashable, value: T, *, size: int | None = None, on: Hashable | None = None
    ) -> None:
        """Keep a value, in place of an earlier one. `size` in bytes, if not `bytes_of`."""
        limit, size = self.limit_bytes, bytes_of(value) if size is None else size
        with self._lock:
            self._entries[key] = _Entry(value, size, on)
            self._used(key)
            self._evict(limit)

    def drop_oldest(self) -> bool:
        """Drop the least recently used value that no other one rests on; whether there was one."""
        with self._lock:
            held = {entry.base for entry in self._entries.values()}
            oldest = next((key for key in self._entries if key not in held), None)
            if oldest is None:
                return False
            del self._entries[oldest]
            return True

    def clear(self) -> None:
        """Drop everything that is not being made at the moment."""
        with self._lock:
            self._entries.clear()

    @property
    def bytes(self) -> int:
        """What the kept values weigh together."""
        with self._lock:
            return self._bytes()

    def __len__(self) -> int:
        return len(self._entries)

    def _bytes(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    def _used(self, key: Hashable) -> T:
        """The value of a key, which is the most recently used one from now on."""
        entry = self._entries[key]
        for used in (entry.base, key):
            if used in self._entries:
                self._entries.move_to_end(used)
        return entry.value

    def _make(
        self,
        key: Hashable,
        future: "Future[T]",
        make: Callable[[], T],
        size: Callable[[T], int],
        on: Hashable | None,
    ) -> None:
        try:
            value = make()
            self.put(key, value, size=size(value), on=on)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)
        finally:
            with self._lock:
                del self._making[key]

    def _evict(self, limit: int) -> None:
        """Drop from the oldest on, but neither the newest value nor what another one rests on."""
        most = len(self._entries) if self._most is None else self._most
        while self._bytes() > limit or len(self._entries) > most:
            held = {next(reversed(self._entries)), *(e.base for e in self._entries.values())}
            oldest = next((key for key in self._entries if key not in held), None)
            if oldest is None:
                return
            del self._entries[oldest]
