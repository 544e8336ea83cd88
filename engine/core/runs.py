"""Runs that outlive the page that asked for them.

    run = runs.start(lambda: runner(job), recipe, owner="a page")
    for event in run.watch("a page"): ...
    runs.find(run.key)              # the same run for the page that comes after a reload, or None

A job runs in a thread of its own and keeps its latest event. Whoever knows the key of a run, which
nobody can guess, may watch it: now, or again after a reload. A run that nobody watches is stopped
after a while; what it came to is kept for a while. Both are bounded, in number, bytes and seconds.
"""

import contextvars
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

from engine.core.cache import bytes_of
from engine.core.job import Done, Event, Failed
from engine.core.lane import Waiting
from engine.core.recipe import Recipe

Events = Generator[Event, None, None]

# A page that is loaded again comes back within seconds, on a slow phone within a minute.
UNWATCHED_SECONDS, KEPT_SECONDS = 60.0, 300.0
MOST_UNWATCHED, MOST_ENDED, MOST_ENDED_MEGABYTES = 4, 12, 24


class Run:
    """One job under way or at its end: its recipe, its latest event, and who watches it."""

    def __init__(self, begin: Callable[[], Events], recipe: Recipe, owner: str) -> None:
        self.key, self.recipe, self.owner = secrets.token_urlsafe(18), recipe, owner
        self.began, self.ended = time.monotonic(), 0.0
        self.watchers, self.left = 0, self.began  # since when nobody watches, where nobody does
        self.was_seen = False  # to its end, by a watcher who was still there then
        self._begin, self._count, self._is_stopped = begin, 0, False
        self._latest: Event | None = None
        self._error: BaseException | None = None
        self._news = threading.Condition()

    @property
    def seconds(self) -> float:
        """Since its turn came, or from there to its end; the time that it waited does not count."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def is_forsaken(self) -> bool:
        """Whether nobody has watched it for too long."""
        return not self.watchers and time.monotonic() - self.left > UNWATCHED_SECONDS

    @property
    def is_lost(self) -> bool:
        """Whether it was stopped on its way, so that there is nothing to find again."""
        return bool(self.ended) and not isinstance(self._latest, Done | Failed)

    @property
    def result_bytes(self) -> int:
        """What its result weighs; 0 until there is one."""
        return bytes_of(self._latest.result) if isinstance(self._latest, Done) else 0

    def work(self) -> None:
        """Takes the job to its end, or until it is stopped; for a thread of its own."""
        try:
            events = self._begin()
            try:
                for event in events:
                    self._tell(event)
                    if self._is_stopped or self.is_forsaken:
                        break
            finally:
                events.close()
        except Exception as error:  # told to whoever watches, who has a log for it
            self._error = error
        finally:
            with self._news:
                self.ended = time.monotonic()
                self._news.notify_all()

    def _tell(self, event: Event) -> None:
        with self._news:
            if isinstance(event, Waiting):
                self.began = time.monotonic()
            self._latest, self._count = event, self._count + 1
            self._news.notify_all()

    def watch(self, owner: str) -> Iterator[Event]:
        """The latest event each time there is a new one, the last one for certain.

        It ends without `Done` or `Failed` when the run is stopped. Raises what the runner raised.
        """
        told = 0
        with self._news:
            self.owner, self.watchers = owner, self.watchers + 1
        try:
            while not self._is_told(told):
                with self._news:
                    self._news.wait_for(partial(self._has_news, told))
                    event, is_new, told = self._latest, self._count > told, self._count
                if self._error is not None:
                    raise self._error
                if event is not None and is_new:
                    yield event
            self.was_seen = True
        finally:
            with self._news:
                self.watchers, self.left = self.watchers - 1, time.monotonic()

    def _has_news(self, told: int) -> bool:
        return self._count > told or bool(self.ended)

    def _is_told(self, told: int) -> bool:
        """Whether there is nothing to come after the first `told` events."""
        with self._news:
            is_last = isinstance(self._latest, Done | Failed)
            return self._count == told and (is_last or (bool(self.ended) and self._error is None))

    def stop(self) -> None:
        """Ends it before its next step; what it came to is not kept."""
        self._is_stopped = True


class Runs:
    """The runs of a server by key."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def start(self, begin: Callable[[], Events], recipe: Recipe, owner: str) -> Run:
        """A new run that the page `owner` goes on to `watch`."""
        run = Run(begin, recipe, owner)
        with self._lock:
            self._runs[run.key] = run
        self._tidy()
        # The platform's own context, such as whose GPU time this is, goes along into the thread.
        work = contextvars.copy_context().run
        threading.Thread(target=work, args=(self._work, run), name="run", daemon=True).start()
        return run

    def _work(self, run: Run) -> None:
        run.work()
        self._tidy()

    def find(self, key: str) -> Run | None:
        """The run of a key, or None when it is not kept any more."""
        self._tidy()
        with self._lock:
            run = self._runs.get(key)
        return None if run is None or run.is_lost else run

    def stop(self, owner: str, method: str, action: str) -> None:
        """Stops what a page has under way with one button."""
        with self._lock:
            mine = [run for run in self._runs.values() if run.owner == owner and not run.ended]
        for run in mine:
            if (run.recipe.method, run.recipe.action) == (method, action):
                run.stop()
                self._forget(run)

    def _tidy(self) -> None:
        now = time.monotonic()
        with self._lock:
            runs = list(self._runs.values())
        alone = [run for run in runs if not run.watchers and not run.ended]
        for place, run in enumerate(sorted(alone, key=lambda run: -run.left)):
            if place >= MOST_UNWATCHED or run.is_forsaken:
                run.stop()
                self._forget(run)
        room = MOST_ENDED_MEGABYTES * 1_000_000
        ended = [run for run in runs if run.ended]
        for place, run in enumerate(sorted(ended, key=lambda run: (run.was_seen, -run.ended))):
            size, is_old = run.result_bytes, now - run.ended > KEPT_SECONDS
            if place >= MOST_ENDED or size > room or is_old or run.is_lost:
                self._forget(run)
            else:
                room -= size

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._runs.pop(run.key, None)
