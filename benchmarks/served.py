"""Bars that need no browser: start, weight, load, refusal, memory, solvers, undo, files."""

import json
import statistics
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import TYPE_CHECKING

from gradio_client import Client
from gradio_client.exceptions import AppError

from benchmarks.bars import Bar
from benchmarks.harness import ROOT, Server, opened, serve
from engine.core import budgets
from engine.core.catalog import Entry, announced
from engine.core.job import finish
from engine.core.recipe import ModelRef, Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VISITORS = 50


def recipes() -> list[Recipe]:
    """A quick run of every action of every method, as its card gives it."""
    found = []
    for entry in announced().values():
        for action in entry.card.actions:
            models = entry.models(action.name)
            model = ModelRef(models[0]) if models else None
            found.append(Recipe(entry.slug, action.name, model, action.quick))
    return found


def client_of(server: Server) -> Client:
    """A client of the app's API that prints nothing."""
    return Client(server.url, verbose=False)


def call(client: Client, recipe: Recipe) -> object:
    """Run a recipe over the API to its end."""
    return client.predict(recipe.json(), api_name=recipe.endpoint)


def start() -> Iterator[Bar]:
    """Three fresh processes: seconds to the first page, and what was imported by then."""
    seconds, imported = [], set()
    for _ in range(3):
        with serve() as server:
            seconds.append(server.served)
            imported |= set(server.noted("import", until=server.served_at))
    yield Bar.at_most("process start to served page, worst of 3", max(seconds), 5, "s", all=seconds)
    yield Bar.none("model libraries imported before the page is served", sorted(imported))


def pages() -> Iterator[Bar]:
    """Weight of the HTML of the heaviest page, as it is sent and as the browser unpacks it."""
    with serve() as server:
        weights = {route: server.transferred(route) / 1000 for route in server.routes()}
        heaviest = max(weights, key=lambda route: weights[route])
        unpacked = len(server.get(heaviest)) / 1000
    what = f"HTML of the heaviest page ({heaviest}; {unpacked:.0f} KB unpacked)"
    yield Bar.at_most(what, weights[heaviest], 120, "KB", all=weights)


def visitors() -> Iterator[Bar]:
    """Fifty visitors at once: each opens every page, its settings, and the list of endpoints.

    All the while as many runs wait as are let in, and each page is opened by a link, so that it
    asks for what the link restores.
    """
    with serve() as server:
        paths = ["/config", "/gradio_api/info"]
        links = [link_of(entry) for entry in announced().values()]
        waiting = crowded(server)

        def visit(number: int) -> list[float]:
            seconds = []
            for path in paths + links:
                begin = time.perf_counter()
                opened(server.url, path, f"visitor{number}") if path in links else server.get(path)
                seconds.append(time.perf_counter() - begin)
            return seconds

        with ThreadPoolExecutor(VISITORS) as pool:
            visits = [pool.submit(visit, number) for number in range(VISITORS)]
        errors = [str(error) for visit in visits if (error := visit.exception())]
        times = [t for visit in visits if not visit.exception() for t in visit.result()]
    yield Bar.none(
        f"refusals and errors with {VISITORS} visitors at once, while runs wait",
        errors,
        waiting=waiting,
        requests=len(times),
        median_seconds=statistics.median(times) if times else None,
        slowest_seconds=max(times, default=None),
    )


def link_of(entry: Entry) -> str:
    """The address of a page with a recipe of its first action."""
    action = entry.card.actions[0]
    recipe = Recipe(entry.slug, action.name, params=action.quick, seed=7)
    return f"{entry.card.family.route}?{recipe.query()}"


def crowded(server: Server, runs: int = 40) -> int:
    """Fill the queue with runs and give how many were let in."""
    recipe = recipes()[0]
    index = endpoint_index(json.loads(server.get("/config")), recipe.endpoint)
    answers = [join(server, index, recipe, session=f"runner{n}") for n in range(runs)]
    return sum(status == 200 for status, _ in answers)


def sessions(number: int = 100) -> Iterator[Bar]:
    """What each fresh visitor costs the server who opens one link and does nothing."""
    with serve() as server:
        link = link_of(next(iter(announced().values())))
        opened(server.url, link, "first")  # templates and threads are there from now on
        memory, seconds = server.megabytes(), server.seconds()
        for visitor in range(number):
            opened(server.url, link, f"fresh{visitor}")
        memory = (server.megabytes() - memory) / number
        seconds = (server.seconds() - seconds) / number
    yield Bar.at_most("memory of a fresh session", memory, 1, "MB")
    yield Bar.at_most("processor time of a fresh session, its page included", seconds, 0.1, "s")


def queue() -> Iterator[Bar]:
    """Fill the queue with runs; those that are too many must be told so quickly."""
    runs = budgets.WAITING_RUNS + 4  # one computes, and three are too many
    with serve() as server, ThreadPoolExecutor(runs) as pool:
        recipe = recipes()[0]
        call(client_of(server), recipe)  # imports and the model are no part of this
        clients = list(pool.map(lambda _: client_of(server), range(runs)))
        answers = list(pool.map(lambda client: refusal(client, recipe), clients))
    told = [answer for answer in answers if answer is not None]
    if not told:
        yield Bar("queue overflow", "refused in < 1 s", f"{runs} accepted", False)
        return
    slowest, texts = max(seconds for seconds, _ in told), [text for _, text in told]
    accepted = runs - len(told)
    yield Bar.at_most("queue overflow is refused within", slowest, 1, "s", accepted=accepted)
    clear = all("full" in text.lower() for text in texts)
    yield Bar("the refusal says why", "yes", texts[0][:60].strip(), clear, {"all": texts})


def refusal(client: Client, recipe: Recipe) -> tuple[float, str] | None:
    """Seconds until a run was refused, and in what words; None where it came to its end."""
    begun = time.perf_counter()
    try:
        client.predict(recipe.json(), api_name=recipe.endpoint)
    except AppError as refused:
        return time.perf_counter() - begun, str(refused)
    return None


def endpoint_index(config: dict, endpoint: str) -> int:
    """Number of the event behind a named endpoint."""
    for dependency in config["dependencies"]:
        if dependency["api_name"] == endpoint.strip("/"):
            return dependency["id"]
    raise LookupError(f"The app has no endpoint {endpoint}.")


def join(server: Server, index: int, recipe: Recipe, *, session: str) -> tuple[int, str]:
    """Ask for a place in the queue; gives the status and the text of the answer."""
    body = {"data": [recipe.json()], "fn_index": index, "session_hash": session}
    request = urllib.request.Request(
        f"{server.url}gradio_api/queue/join",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())["detail"]


def soak(runs: int) -> Iterator[Bar]:
    """Many runs over all panels, each in a session of its own: slope of the memory after warming
    up, and files left behind."""
    with serve() as server:
        client, every = client_of(server), recipes()
        memory, temporary, errors = [], [], []
        for number, recipe in enumerate(islice(cycle(every), runs)):
            client.reset_session()
            try:
                call(client, seeded(recipe, number))
            except Exception as error:  # any failure of a run is a finding of the soak
                errors.append(f"{recipe.endpoint}: {error}")
            memory.append(server.megabytes())
            temporary.append(server.temporary_megabytes())
        outside = server.noted("outside")
    settled = memory[len(every) :]  # in the first turn come imports, models and caches
    numbers = range(len(settled))
    slope = statistics.linear_regression(numbers, settled).slope
    yield Bar.at_most(f"memory slope over {runs} runs", slope, 0.1, "MB a run", memory=memory)
    yield Bar.at_most("temporary files after them", temporary[-1], 200, "MB")
    yield Bar.none("runs that failed", errors)
    yield Bar.none("outside requests of the server over them", outside)


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe with another seed."""
    return Recipe(recipe.method, recipe.action, recipe.model, recipe.params, seed)


def overhead() -> Iterator[Bar]:
    """What our loop takes beside the bare calls of the network, diffusers' own loop beside it."""
    from engine.models.devices import accelerator
    from engine.sampling.nfe_lab import bench
    from engine.sampling.nfe_lab.scene import Scene

    small = Scene.open("world", "a cat", "", bench.GUIDANCE)
    sizes = [("the embedded world", small, 5.0)]
    if device := accelerator():
        large = bench.stable_diffusion_shape(small, device, "float16")
        sizes.append(("the shape of SD 1.5", large, 2.0))
    for name, scene, limit in sizes:
        found = finish(bench.overhead(scene, 0, 0, 1))
        what = f"solver beside bare network calls, {name} (diffusers: {found['diffusers']:.1%})"
        yield Bar.at_most(what, 100 * found["ours"], limit, "%", figures=found)


def erasing() -> Iterator[Bar]:
    """An erasure at the shape of SD 1.4, in processor seconds of one thread."""
    import torch

    from engine.erasing.rece import speed

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, error = speed.with_all_kept(0)
    finally:
        torch.set_num_threads(threads)
    what = f"three epochs of RECE at the shape of SD 1.4, {speed.RETAINED} kept prompts"
    yield Bar.at_most(f"{what}, processor time", seconds, 0.5, "s")
    yield Bar.at_most(f"{what}, error to float64", error, 1e-6, "")


def exact_undo(sequences: int = 200) -> Iterator[Bar]:
    """Random stacks of edits in three number formats, taken off in any order that is allowed."""
    import torch

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        failures = [f"seed {seed}" for seed in range(sequences) if not _comes_back(seed, dtype)]
        yield Bar.none(f"of {sequences} random edit sequences in {name}, not undone", failures)


def _comes_back(seed: int, dtype: "torch.dtype") -> bool:
    """Whether a random sequence of edits, undone in a random allowed order, leaves every bit."""
    import torch

    from engine.core.patch import Patch, State
    from engine.core.stack import PatchStack

    generator = torch.Generator().manual_seed(seed)

    def pick(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    base = {f"t{n}": torch.randn(8, 5, generator=generator).to(dtype) for n in range(4)}
    state: State = base
    stack, edits = PatchStack(), []
    for number in range(1 + pick(5)):
        new = dict(state)
        for name in {f"t{pick(4)}" for _ in range(2)}:
            step = torch.randn(8, 5, generator=generator).to(dtype)
            new[name] = state[name] * 1.01 + step * 1e-3
        edits.append(Patch.between(state, new, Recipe("bench", label=f"edit {number}")))
        state, stack = edits[-1].apply(state), stack.push(edits[-1])
    while edits:
        free = [edit for edit in edits if not stack.blockers(edit)]
        edit = free[pick(len(free))]
        state, stack = edit.undo(state), stack.undo(edit)
        edits.remove(edit)
    return all(_bits(state[name]) == _bits(base[name]) for name in base)


def _bits(tensor: "Tensor") -> bytes:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def assets() -> Iterator[Bar]:
    """Weight of everything that ships in assets/."""
    files = [path for path in (ROOT / "assets").rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 2**20
    yield Bar.at_most("assets in the repository", megabytes, 120, "MB", files=len(files))
