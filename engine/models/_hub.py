"""The Hub: what its cache holds already, and downloads that show their bytes and can be stopped.

    folder = yield from fetch(Wanted("owner/name", None, choose, is_whole))

A download runs in a thread of its own and whoever asks for it looks in now and then, so that a job
that waits for one can be closed at any moment. Two that ask for the same share one download; it
stops when the last of them has gone.

No message or log line repeats what the Hub's library said, as that may hold addresses with a
signature.
"""

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput, EngineError
from engine.core.job import Progress, Steps

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]{0,99}")  # it becomes the name of a file in the cache
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_ANSWER = 10
# For so long the Hub is not asked again which commit a branch is at.
FRESH_SECONDS = 600


@dataclass(frozen=True)
class Wanted:
    """A repository, and what is wanted of it.

    `choose` gives the names of the files to fetch or raises an `EngineError`; `is_whole` says
    whether a folder has all of them. The server's own token is sent for `trusted` names only.
    """

    name: str
    revision: str | None
    choose: Callable[["ModelInfo"], list[str]]
    is_whole: Callable[[Path], bool]
    trusted: bool = False

    @property
    def key(self) -> tuple[str, str | None]:
        return self.name, self.revision


def fetch(wanted: Wanted) -> Steps[Path]:
    """The folder of a repository, named after its commit; its files are downloaded where needed.

    A pinned commit that is here is used without a request, and so is one that was asked for a
    moment ago. Where the Hub cannot be reached the commit that was used last stands in. Raises
    `AssetMissing` when there is none, and what `choose` raises.
    """
    if wanted.revision is not None and not REVISION.fullmatch(wanted.revision):
        message = f'"{wanted.revision[:40]}" cannot be a revision.'
        raise BadInput(message, "Give the commit, 40 letters.")
    if (folder := _here(wanted)) is not None:
        return folder
    if is_offline():
        raise not_here(wanted, "and the Hub is switched off (HF_HUB_OFFLINE)")
    with _watched(wanted) as download:
        yield download.progress()
        while not download.finished.wait(SECONDS_BETWEEN_LOOKS):
            yield download.progress()
    if download.failure is not None:
        raise download.failure from None
    assert download.folder is not None
    _LATELY[wanted.key] = download.folder, time.monotonic()
    return download.folder


def _here(wanted: Wanted) -> Path | None:
    folder, fetched_at = _LATELY.get(wanted.key, (None, 0.0))
    if folder and time.monotonic() - fetched_at < FRESH_SECONDS and wanted.is_whole(folder):
        return folder
    if is_offline() or (wanted.revision and COMMIT.fullmatch(wanted.revision)):
        return local_snapshot(wanted)
    return None


_LATELY: dict[tuple[str, str | None], tuple[Path, float]] = {}


def is_offline() -> bool:
    """Whether the Hub's library is told to make no request."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def local_snapshot(wanted: Wanted) -> Path | None:
    """The folder of a revision in the Hub's cache, if all that is wanted is there."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(wanted.name, revision=wanted.revision, local_files_only=True)
    except (OSError, ValueError):  # LocalEntryNotFoundError is both, depending on the version
        return None
    folder = Path(str(snapshot))
    return folder if wanted.is_whole(folder) else None


def not_here(wanted: Wanted, why: str) -> AssetMissing:
    """The sentence for a repository that cannot be had."""
    pinned = f" --revision {wanted.revision}" if wanted.revision else ""
    return AssetMissing(
        f"{wanted.name} is not on this machine, {why}.",
        f"With a network run `hf download {wanted.name}{pinned}`, or copy its folder here and "
        "name its path. The model called world needs no network.",
    )


# ---------------------------------------------------------------------- downloads


class _Stopped(Exception):
    """Nobody waits for the download any more."""


@dataclass(eq=False)
class _Download:
    """One download under way, and its end."""

    wanted: Wanted
    finished: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    watchers: int = 0
    arrived_bytes: int = 0
    total_bytes: int = 0
    folder: Path | None = None
    failure: EngineError | None = None

    def progress(self) -> Progress:
        """Bytes so far, in units that fit into a line."""
        if not self.total_bytes:
            return Progress(0, 1, f"Asking the Hub for {self.wanted.name}")
        unit, size = ("MB", 1_000_000) if self.total_bytes >= 10_000_000 else ("kB", 1000)
        done = min(self.arrived_bytes, self.total_bytes)
        note = f"{unit} of {self.wanted.name} downloaded"
        return Progress(done // size, max(self.total_bytes // size, 1), note)

    def run(self) -> None:
        try:
            self.folder = self._fetched()
        except _Stopped:
            self.failure = not_here(self.wanted, "and its download was stopped")
        except EngineError as error:
            self.failure = error
        except Exception as error:  # the Hub's library changes its exceptions with its network
            self._fall_back(error)
        finally:
            with _LOCK:
                _RUNNING.pop(self.wanted.key, None)
            self.finished.set()

    def _fetched(self) -> Path:
        from huggingface_hub import HfApi

        with_token = self.wanted.trusted or os.environ.get("REWIND_HUB_TOKEN") == "1"
        api = HfApi(token=None if with_token else False)
        info = api.model_info(
            self.wanted.name,
            revision=self.wanted.revision,
            files_metadata=True,
            timeout=SECONDS_TO_ANSWER,
        )
        names = self.wanted.choose(info)
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        self.total_bytes = sum(sizes[name] for name in names)
        for name in names:
            path = api.hf_hub_download(
                self.wanted.name,
                name,
                revision=info.sha,
                tqdm_class=self._bar(),
            )
            folder = Path(path).parents[name.count("/")]
        _verify(info, folder, names)
        self._keep_ref(folder)
        return folder

    def _bar(self) -> type:
        """What the Hub's library takes for a progress bar, one a file."""
        download = self

        class Bar:
            def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
                self.update(initial)

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None:
                return None

            def update(self, n: int | float | None = 1) -> None:
                if download.stopped.is_set():
                    raise _Stopped
                download.arrived_bytes += int(n or 0)

            def _ignore(self, *_: object, **__: object) -> None:
                return None

            update_transfer = set_postfix_str = set_transfer_postfix_str = close = _ignore

        return Bar

    def _keep_ref(self, folder: Path) -> None:
        """Notes which commit the revision is at, as the library does; without it a model that was
        not pinned could not be found again while the Hub is down."""
        revision = self.wanted.revision or "main"
        if not COMMIT.fullmatch(revision):
            with contextlib.suppress(AssetMissing):
                disk.write(folder.parents[1] / "refs" / revision, [folder.name.encode()])

    def _fall_back(self, error: Exception) -> None:
        kinds = " from ".join(type(link).__name__ for link in _chain(error))
        log.warning("the download of %s failed: %s", self.wanted.name, kinds)
        self.failure = _sentence(error, self)
        if not isinstance(self.failure, _Refused):
            self.folder = local_snapshot(self.wanted)
        if self.folder is not None:
            self.failure = None


_LOCK = threading.Lock()
_RUNNING: dict[tuple[str, str | None], _Download] = {}


@contextlib.contextmanager
def _watched(wanted: Wanted) -> Iterator[_Download]:
    """The download of a repository, begun now unless it is under way."""
    with _LOCK:
        download = _RUNNING.get(wanted.key)
        if download is None or download.stopped.is_set():
            download = _RUNNING[wanted.key] = _Download(wanted)
            threading.Thread(target=download.run, name="download", daemon=True).start()
        download.watchers += 1
    try:
        yield download
    finally:
        with _LOCK:
            download.watchers -= 1
            if not download.watchers:
                download.stopped.set()


def _verify(info: "ModelInfo", folder: Path, names: list[str]) -> None:
    """Compare what arrived with the checksums that the Hub announced for large files."""
    announced = {entry.rfilename: entry.lfs for entry in info.siblings or [] if entry.lfs}
    for name in set(names) & set(announced):
        with (folder / name).open("rb") as file:
            arrived = hashlib.file_digest(file, "sha256").hexdigest()
        if arrived != announced[name].sha256:
            (folder / name).unlink()
            raise AssetMissing(
                f"The download of {info.id} arrived damaged: {name}.", "Try it again."
            )


# ---------------------------------------------------------------------- what went wrong


class _Refused(AssetMissing):
    """The Hub was reached and said no, so what is here from before does not stand in."""


def _sentence(error: Exception, download: _Download) -> AssetMissing:
    """One sentence for each way in which the Hub, the network or the disk can fail."""
    wanted, chain = download.wanted, list(_chain(error))
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if "GatedRepoError" in kinds:
        return _Refused(
            f"{wanted.name} is behind a licence that must be accepted first.",
            "Accept it on its page, download it yourself and name the folder.",
        )
    if "RepositoryNotFoundError" in kinds:
        return _Refused(f"The Hub has no public model {wanted.name}.", "Check the spelling.")
    if "RevisionNotFoundError" in kinds:
        return _Refused(
            f"{wanted.name} has no revision {wanted.revision}.",
            "Leave the revision out, or copy the commit from the model's page.",
        )
    if status := next((code for link in chain if (code := _status(link))), 0):
        return _answered(wanted, status)
    if "TimeoutException" in kinds:
        return not_here(wanted, "and the Hub did not answer in time")
    if kinds & {"NetworkError", "RemoteProtocolError"} or "Consistency check" in str(error):
        if download.arrived_bytes:
            return not_here(wanted, "and the connection was cut while it came in")
        return not_here(wanted, "and the Hub cannot be reached")
    if type(error) in (OSError, PermissionError) and isinstance(error, OSError) and error.strerror:
        return AssetMissing(
            f"{wanted.name} could not be stored: {error.strerror}.",
            "Free some space, or set HF_HOME to a folder that can be written.",
        )
    return not_here(wanted, "and could not be fetched from the Hub")


def _answered(wanted: Wanted, status: int) -> AssetMissing:
    if status == 429:
        return not_here(wanted, "and the Hub asks this machine to wait (429)")
    if status >= 500:
        return not_here(wanted, f"and the Hub has a fault of its own at the moment ({status})")
    return not_here(wanted, f"and the Hub refuses to give it ({status})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, at most ten."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int:
    code = getattr(getattr(error, "response", None), "status_code", 0)
    return code if isinstance(code, int) else 0
