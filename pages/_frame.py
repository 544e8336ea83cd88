"""The frame around every panel: what a page adds is its controls and how an event is drawn.

    def build(frame: Frame) -> None:
        prompt = gr.Textbox(label="Prompt", value="a cat")
        action = frame.action("run", "Run")
        picture = gr.HTML()
        action.wire(inputs={"prompt": prompt}, draw=draw, outputs=[picture])

    def draw(event: Progress | Done, recipe: Recipe) -> tuple[str, ...]: ...

The names in `inputs` are the settings of the job function and of the recipe, so one click, one
link, one command line and one API call say the same thing. The frame adds model, seed, Run, Stop,
progress, failures, the recipe in all its forms, the claim, the lesson and the code that ran.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import gradio as gr
from gradio.components.base import Component

from engine import sounds
from engine.core.catalog import Entry
from engine.core.errors import AssetMissing, BadInput, EngineError
from engine.core.job import Done, Event, Failed, Job, Progress
from engine.core.recipe import ModelRef, Recipe
from engine.core.runs import Run
from engine.pictures import HEAD, from_text
from engine.results import files_of, keep_edit
from pages import _lane
from pages import _parts as parts
from pages._handlers import error_of, friendly, guarded, named
from pages._lessons import lesson_of, sheet
from pages._parts import escape
from pages._serving import Query, Suite
from pages._shelf import Shelf, model_ref, model_text

Runner = Callable[[Job], Generator[Event, None, None]]
Draw = Callable[[Progress | Done, Recipe], Sequence[object]]
Values = Mapping[str, object]

# Everything that computes waits in one lane, so that two cores serve one job at a time.
LANE = {"concurrency_id": _lane.LANE, "concurrency_limit": 1}
SECONDS_BETWEEN_DRAWINGS = 0.12
LARGEST_SEED = 2**31 - 1
LONGEST_SHOWN = 5000
NOT_KEPT = "The run that was under way is not kept any more. Press the button to run it again."


class Failure(NamedTuple):
    """A setting in which a method fails, why, and what to use instead."""

    recipe: Recipe
    why: str
    instead: str


@dataclass
class Frame:
    """One panel under construction: its method, the visitor's shelf and who runs its jobs."""

    entry: Entry
    shelf: Shelf
    runner: Runner
    demo: Suite
    actions: dict[str, "Action"] = field(default_factory=dict)
    _model: gr.Dropdown | None = None
    _seed: gr.Number | None = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        self._recipe_view = gr.HTML(
            '<p class="note">Stands here after a run; so does the link under the button.</p>',
            render=False,
        )
        self._head()

    @property
    def route(self) -> str:
        """The route of the panel's family, without a slash."""
        return self.entry.card.family.route.strip("/")

    # ------------------------------------------------------------------ for the page

    def model(self, more: Mapping[str, str] | None = None) -> gr.Dropdown:
        """The choice of a model, the visitor's edited ones included.

        `more` are further sources with their titles, of models that do not ship.
        """
        titles = {key: model_title(key) for key in self.entry.card.models} | dict(more or {})
        self._model = parts.model_picker(titles, elem_id=f"{self.entry.slug}-model")
        self.shelf.offer(self._model, titles, self.entry.card.title)
        return self._model

    def seed(self, value: int = 0) -> gr.Number:
        """The seed, with a button that draws another one."""
        with gr.Row(elem_classes="seed"):
            self._seed = parts.WholeNumber(
                value,
                label="Seed",
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
                elem_id=f"{self.entry.slug}-seed",
            )
            another = gr.Button("Another", size="sm", elem_classes="quiet", min_width=60)
        another.click(
            None, None, self._seed, js=f"() => Math.floor(Math.random() * {LARGEST_SEED})"
        )
        return self._seed

    def breaks(
        self,
        why: str,
        instead: str,
        params: dict[str, Any],
        seed: int = 7,
        action: str = "run",
    ) -> None:
        """A setting in which the method fails, why, and what to use instead, after a colon."""
        recipe = Recipe(self.entry.slug, action, params=params, seed=seed)
        self.failure = Failure(recipe, why, instead)

    def action(self, name: str = "run", label: str = "Run", *, backward: bool = False) -> "Action":
        """The buttons and the progress line of one job function, drawn here and wired later."""
        return Action(self, name, label, backward)

    def opens(self, tabs: gr.Tabs, actions: Collection[str]) -> None:
        """Tabs inside the panel: a link to one of these actions opens the tab of that id."""

        def wanted(query: Query) -> str | None:
            action = query.get("action", "")
            return action if asks_for(self.entry.slug, query) and action in actions else None

        self.demo.opens(tabs, wanted)

    # ------------------------------------------------------------------ parts of every panel

    def _head(self) -> None:
        card = self.entry.card
        paper = card.paper
        code = f' · <a href="{escape(paper.code)}">code</a>' if paper.code else ""
        gr.HTML(
            f'<header class="panel-head"><h2 class="unseen">{escape(card.title)}</h2>'
            f'<p class="undoes"><span class="mark backward" aria-hidden="true">◀</span> '
            f"{escape(card.undoes)}</p>"
            f'<p class="note">Takes back {escape(card.exactness.value)}. After '
            f'<a href="{escape(paper.link)}">{escape(paper.title)}</a>, '
            f"{escape(paper.authors)} {paper.year}{code}.</p></header>"
        )

    def close(self) -> None:
        """What stands below every panel, once its controls are known."""
        self._claim()
        with gr.Accordion("How it works", open=False) as fold:
            lesson = gr.Markdown(latex_delimiters=LATEX, elem_classes="lesson")
        self._on_open(fold, lesson, self._lesson, "lesson")
        with gr.Accordion("The code that ran", open=False) as fold:
            code = gr.HTML()
        self._on_open(fold, code, self._code, "code")
        with gr.Accordion("Recipe: link, file, command line, API", open=False):
            self._recipe_view.render()
            opened = gr.UploadButton(
                "Open a recipe (JSON or PNG)", file_types=[".json", ".png"], size="sm"
            )
        self._restores(opened)
        if self.entry.card.golden and find_spec(f"{self.entry.module}.golden"):
            with gr.Accordion("Faithfulness: the golden cases", open=False):
                self._golden()
        if (lesson := lesson_of(self.entry)) is not None:
            # A fold of the page itself: a lesson link opens it before the controls are awake.
            gr.HTML(
                '<details class="lesson-fold"><summary>Worksheet</summary>'
                f"{sheet(self.entry, lesson)}</details>"
            )
        self._api()

    def _claim(self) -> None:
        claim = self.entry.card.claim
        bench = f"python -m engine bench {self.entry.name}"
        try:
            found = self.entry.measured()
        except AssetMissing:
            figures = f"<p>Not measured here yet. <code>{escape(bench)}</code> does it.</p>"
        else:
            low, high = found.interval
            holds = claim.holds(found.measured, found.versus)
            versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
            figures = (
                '<dl class="figures">'
                f"<div><dt>{escape(claim.measure)}</dt><dd>{found.measured:.3g}</dd></div>"
                f"<div><dt>{escape(claim.versus)}</dt><dd>{found.versus:.3g}</dd></div>"
                f"<div><dt>95 % interval</dt><dd>{low:.3g} – {high:.3g}</dd></div>"
                f"<div><dt>verdict</dt><dd>{'✓ holds' if holds else '✗ does not hold'}</dd></div>"
                "</dl>"
                f"<p class='note'>Measured by <code>{escape(bench)}</code> in {found.seconds:.0f} "
                f"s, seed {found.seed}, on {escape(found.machine)}; {escape(versions)}. "
                "Run the command to measure it again. "
                f'<a href="{claim_file(self.entry.slug)}" download>All figures</a></p>'
            )
        gr.HTML(
            f'<section class="claim"><h3>The claim</h3><blockquote>{escape(claim.sentence)}'
            f"</blockquote>{figures}{self._where_it_breaks()}</section>"
        )

    def _where_it_breaks(self) -> str:
        if self.failure is None:
            return ""
        link = escape(recipe_path(self.failure.recipe, self.route))
        return (
            f'<p class="breaks"><b>Where it breaks.</b> {escape(self.failure.why)} '
            f'Instead: {escape(self.failure.instead)} <a href="{link}">Set it up</a></p>'
        )

    def _on_open(
        self, fold: gr.Accordion, place: Component, read: Callable[[], str], name: str
    ) -> None:
        """What a fold holds comes when it is opened, so that the page itself stays light."""
        handler = named(read, f"{self.entry.slug}_{name}")
        fold.expand(
            handler, None, place, api_visibility="private", show_progress="hidden", queue=False
        )

    def _lesson(self) -> str:
        """The lesson of the method."""
        return self.entry.lesson

    def _code(self) -> str:
        """The functions that ran, with the files they stand in."""
        pieces = []
        for source in self.entry.sources():
            path = source.path.name
            for parent in source.path.parents:
                if parent.name == "engine":
                    path = f"engine/{source.path.relative_to(parent).as_posix()}"
                    break
            pieces.append(
                f'<h4><code>{escape(source.name)}</code> <span class="note">{escape(path)}, '
                f"line {source.line}</span></h4>"
                f'<pre tabindex="0" class="code"><code>{escape(source.code)}</code></pre>'
            )
        return "".join(pieces)

    def _golden(self) -> None:
        button = gr.Button("Run the golden cases here", size="sm", elem_classes="forward-line")
        table = gr.HTML(
            '<p class="note">Arrays made by published code, compared with what runs here.</p>'
        )
        button.click(
            named(self._check_golden, f"{self.entry.slug}_golden"),
            None,
            table,
            api_name=f"{self.entry.slug}_golden",
            show_progress="minimal",
            **LANE,
        )

    def _check_golden(self) -> Iterator[str]:
        """Runs the golden cases of this method and reports error, tolerance and seconds."""
        for event in guarded(self.runner(Job(f"{self.entry.module}.golden:run"))):
            if isinstance(event, Progress):
                yield f'<p class="note" role="status">{event.done} of {event.total}</p>'
            elif isinstance(event, Done):
                yield golden_table(event.result)

    # ------------------------------------------------------------------ recipe

    def _restores(self, opened: gr.UploadButton) -> None:
        outputs = [*self.slots(), *(action.status for action in self.actions.values())]
        restore = named(self._from_link, f"{self.entry.slug}_from_link")
        loaded = self.demo.restores(
            restore, outputs, lambda query: asks_for(self.entry.slug, query)
        )
        # Runs that were asked for meanwhile begin now, with what the link has set.
        loaded.then(None, js=f"() => rewindRuns.restored('{self.entry.slug}')")
        opened.upload(
            named(self._from_file, f"{self.entry.slug}_from_file"),
            opened,
            outputs,
            api_visibility="private",
            show_progress="hidden",
        )

    def _every_control(self) -> dict[str, Component]:
        found: dict[str, Component] = {}
        for action in self.actions.values():
            found |= action.controls
        return found

    def slots(self) -> list[Component]:
        """Every control once. Two actions may each have one of the same name, or share one."""
        every = [c for action in self.actions.values() for c in action.controls.values()]
        return list({id(control): control for control in every}.values())

    def _from_link(self, request: gr.Request) -> list[object]:
        """Sets the controls from the address of the page, if it holds a recipe of this method."""
        return self.restored(urlencode(dict(request.query_params)) if request else "")

    def restored(self, query: str) -> list[object]:
        """An update of each control, then of the line below each button; the query is that of a
        link."""
        recipe = Recipe.from_query(query, known=self._every_control()) if query else None
        if recipe is None or recipe.method != self.entry.slug:
            return [gr.skip() for _ in range(len(self.slots()) + len(self.actions))]
        asked = dict(parse_qsl(query, keep_blank_values=True))
        lost = lost_in(asked, recipe)
        without = ["seed"] if "seed" not in asked or "seed" in lost else []
        return self._apply(recipe, "the link", without, lost)

    def _from_file(self, path: str) -> list[object]:
        """Sets the controls from a recipe file, or from a picture that carries one."""
        with friendly():
            data = Path(path).read_bytes()
            png = data[:8] == b"\x89PNG\r\n\x1a\n"
            recipe = (
                Recipe.from_png(data) if png else Recipe.from_json(data.decode("utf-8", "replace"))
            )
            if recipe.method != self.entry.slug:
                raise BadInput(
                    f"This recipe belongs to {recipe.slug}, not to {self.entry.name}.",
                    "Open it in the panel of that method.",
                )
            return self._apply(recipe, "the file")

    def _apply(
        self, recipe: Recipe, source: str, without: Sequence[str] = (), lost: Sequence[str] = ()
    ) -> list[object]:
        """Updates of all controls and of the lines below the buttons.

        `without` are settings of the recipe that the link does not name, `lost` are names of the
        link that the recipe could not take.
        """
        action = self.actions.get(recipe.action)
        given = {name: v for name, v in self.values(recipe).items() if name not in without}
        updates, left_out = self.updates(action, given)
        said = told_of(source, sum(new != gr.skip() for new in updates), [*left_out, *lost])
        if said and (mismatch := recipe.mismatch()):
            said += f" {mismatch}"
        # Below the button that is to be pressed: the first one may be far above it, or hidden.
        told = recipe.action if action else next(iter(self.actions))
        line = note(said) if said else gr.skip()
        return [*updates, *(line if name == told else gr.skip() for name in self.actions)]

    def values(self, recipe: Recipe) -> dict[str, object]:
        """What the controls hold for a recipe, by name."""
        action = self.actions.get(recipe.action)
        given = action.back(dict(recipe.params)) if action else dict(recipe.params)
        model = {} if recipe.model is None else {"model": model_text(recipe.model)}
        return {**given, "seed": recipe.seed, **model}

    def updates(self, action: "Action | None", given: Values) -> tuple[list[object], list[str]]:
        """The update of each slot, and the names whose values no control of the action takes."""
        controls = action.controls if action else {}
        fitting = {name for name in given if name in controls and fits(controls[name], given[name])}
        names = {id(control): name for name, control in controls.items() if name in fitting}
        updates = [
            filled(control, given[names[id(control)]]) if id(control) in names else gr.skip()
            for control in self.slots()
        ]
        return updates, [name for name in given if name not in fitting]

    # ------------------------------------------------------------------ API

    def _api(self) -> None:
        for action in self.actions:
            name = f"{self.entry.slug}_{action}"
            gr.api(named(self._endpoint(action), name), api_name=name, **LANE)

    def _endpoint(self, action: str) -> Callable[[str], Iterator[dict]]:
        def endpoint(recipe: str) -> Iterator[dict]:
            """Runs a recipe (JSON text) and gives its progress, then its result as plain values."""
            with friendly():
                told = Recipe.from_json(recipe if isinstance(recipe, str) else json.dumps(recipe))
                if (told.method, told.action) != (self.entry.slug, action):
                    raise BadInput(
                        f"This endpoint runs {self.entry.name} {action}, the recipe says "
                        f"{told.slug} {told.action}.",
                        f"Call {told.endpoint}.",
                    )
                job = told.job(self.entry.target(told.action))
            for event in guarded(self.runner(job)):
                if isinstance(event, Progress):
                    yield {"done": event.done, "total": event.total, "note": event.note}
                elif isinstance(event, Done):
                    with friendly():
                        edited = keep_edit(event.result, told.model)
                    yield api_result(event.result, told.here(), edited)

        return endpoint


class Action:
    """Run (or Rewind) and Stop, the line that says how far it is, and what they do."""

    def __init__(self, frame: Frame, name: str, label: str, backward: bool) -> None:
        self.frame, self.name, self.backward = frame, name, backward
        slug = frame.entry.slug
        sign = "◀" if backward else "▶"
        with gr.Row(elem_classes="actions"):
            self.start = gr.Button(
                f"{sign}  {label}",
                elem_id=f"{slug}-{name}",
                elem_classes="backward" if backward else "forward",
                min_width=120,
            )
            self.stop = gr.Button(
                "Stop", elem_id=f"{slug}-{name}-stop", elem_classes="stop", min_width=80
            )
        self.go = gr.Button(elem_id=f"{slug}-{name}-go", visible="hidden")
        self.halt = gr.Button(elem_id=f"{slug}-{name}-halt", visible="hidden")
        self.again = gr.Button(elem_id=f"{slug}-{name}-again", visible="hidden")
        self.status = gr.HTML(note(""), elem_id=f"{slug}-{name}-status", elem_classes="status-box")

    def wire(
        self,
        inputs: Mapping[str, Component],
        draw: Draw,
        outputs: Sequence[Component],
        *,
        params: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        back: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        also: Sequence[Callable] = (),
        turned: Sequence[Component] = (),
    ) -> None:
        """Connects the buttons; `inputs` are the job's settings by name, `also` further triggers.

        A visitor who changes the value of a control in `turned` starts a run, too; one who only
        passes it does not, though Gradio calls that a `release` or an `input`. A run follows for
        the last of the triggers that come in while one is under way. `params` turns the values of
        the controls into settings where they differ, and `back` turns settings into values of
        controls.
        """
        frame = self.frame
        seed = frame.seed() if frame._seed is None else frame._seed
        controls: dict[str, Component] = {**inputs, "seed": seed}
        if frame.entry.models(self.name):
            controls["model"] = frame.model() if frame._model is None else frame._model
        frame.actions[self.name] = self
        self.controls, self.back = controls, back or dict
        place = f"{frame.entry.slug}-{self.name}"
        for setting, control in controls.items():
            # A lesson puts away what its task does not need; see rewind.js.
            control.elem_classes = [*control.elem_classes, "setting", f"set-{setting}"]
        for control in turned:
            control.elem_classes = [*control.elem_classes, "turned", f"turned-{place}"]
        self.draw, self.params = draw, params or dict
        self.outputs = [*outputs, self.status, frame._recipe_view]
        panel = f"{frame.entry.slug}_{self.name}_panel"
        # The page itself says when `go` and `halt` may be pressed; see the runs in rewind.js.
        said = {"inputs": self.status, "outputs": self.status, "show_progress": "hidden"}
        asked = [self.start.click, *also]
        gr.on(asked, None, **said, js=f"() => rewindRuns.ask('{place}')")
        self.stop.click(None, **said, js=f"(said) => rewindRuns.stop('{place}', said)")
        event = self.go.click(
            named(self._run, panel),
            None,
            self.outputs,
            inputs_kwargs=controls,
            api_name=panel,
            show_progress="hidden",
            # Gradio counts seconds, hidden too, sixty times a second at each component that it
            # shows progress on; a button has no such clock.
            show_progress_on=self.go,
            **LANE,
        )
        # The key of the run that the page was left with comes from the page, in place of the label.
        found = self.again.click(
            named(self._go_on, f"{panel}_again"),
            self.again,
            [*controls.values(), *self.outputs],
            js=f"() => rewindRuns.left('{place}')",
            api_visibility="private",
            show_progress="hidden",
            show_progress_on=self.again,
            concurrency_limit=16,  # the run itself has begun and waits for no place
        )
        for run in (event, found):
            run.success(None, **said, js=f"(said) => rewindRuns.done('{place}', said)")
            run.failure(None, **said, js=f"(said) => rewindRuns.failed('{place}', said)")
        self.halt.click(
            named(self._halt, f"{panel}_halt"),
            None,
            None,
            cancels=[event, found],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )

    def _run(self, request: gr.Request, **values: object) -> Iterator[list[object]]:
        """Runs the method with the settings of the panel and draws what happens."""
        with friendly():
            try:
                recipe = self.recipe(values)
                job = recipe.job(self.frame.entry.target(recipe.action))
            except EngineError as error:
                refusal = failure(Failed(error.message, error.advice))
                yield [*self._nothing(), refusal, gr.skip()]
                raise
        begin = partial(self.frame.runner, job)
        yield from self._drawn(self.frame.demo.runs.start(begin, recipe, page_of(request)), request)

    def _go_on(self, key: str, request: gr.Request) -> Iterator[list[object]]:
        """Finds the run that was under way when the page was left, and draws what happens."""
        frame = self.frame
        run = frame.demo.runs.find(str(key))
        recipe = run.recipe if run else None
        if run is None or recipe is None or (recipe.method, recipe.action) != self.known_as:
            skipped = [gr.skip()] * len(self.controls)
            yield [*skipped, *self._nothing(), note(NOT_KEPT), gr.skip()]
            return
        new = dict(zip(map(id, frame.slots()), frame.updates(self, frame.values(recipe))[0],
                       strict=True))  # fmt: skip
        controls = [new[id(control)] for control in self.controls.values()]
        for row in self._drawn(run, request):
            yield [*controls, *row]
            controls = [gr.skip()] * len(controls)

    def _halt(self, request: gr.Request) -> None:
        """Stops the run of this page before its next step."""
        self.frame.demo.runs.stop(page_of(request), *self.known_as)

    @property
    def known_as(self) -> tuple[str, str]:
        """Method and action, as recipes name them."""
        return self.frame.entry.slug, self.name

    def _nothing(self) -> list[object]:
        """No news for what the panel itself draws."""
        return [gr.skip()] * (len(self.outputs) - 2)

    def _drawn(self, run: Run, request: gr.Request) -> Iterator[list[object]]:
        """A run as it goes on: what the panel draws, the line below the button, the recipe."""
        frame, recipe, waiting = self.frame, run.recipe, self._nothing()
        loading = Progress(0, 1, "Loading the model")
        yield [*waiting, progress(loading, run.seconds, self.backward, run.key), gr.skip()]
        started, drawn, shown = time.monotonic() - run.seconds, -math.inf, list(waiting)
        for event in run.watch(page_of(request)):
            seconds = time.monotonic() - started
            if isinstance(event, Failed):
                yield [*waiting, failure(event), gr.skip()]
                raise error_of(event)
            if isinstance(event, Progress):
                if seconds - drawn < SECONDS_BETWEEN_DRAWINGS:
                    continue
                before, shown = shown, list(self.draw(event, recipe))
                yield [
                    *changed(before, shown),
                    progress(event, seconds, self.backward, run.key),
                    gr.skip(),
                ]
                drawn = time.monotonic() - started
            else:
                yield [
                    *self.draw(event, recipe),
                    finished(recipe, run.seconds, f"{frame.entry.slug}-{self.name}", frame.route),
                    recipe_view(recipe, frame.entry.slug, origin(request), frame.route),
                ]

    def recipe(self, values: Values) -> Recipe:
        """The recipe of a click. Raises `BadInput` when a value cannot be used."""
        rest = dict(values)
        check_texts(self.controls, rest)
        model = model_ref(rest.pop("model")) if "model" in rest else None
        seed = seed_of(rest.pop("seed", 0))
        return Recipe(self.frame.entry.slug, self.name, model, self.params(rest), seed).here()


LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]


# ---------------------------------------------------------------------- lines of text


def changed(before: Sequence[object], after: Sequence[object]) -> list[object]:
    """What must be sent: outputs that are as they were are skipped."""
    return [gr.skip() if old == new else new for old, new in zip(before, after, strict=True)]


def note(text: str) -> str:
    """A calm line of text in the place of the progress."""
    return f'<div class="status" role="status"><p>{escape(text)}</p></div>'


def told_of(source: str, set_here: int, left_out: Sequence[str]) -> str:
    """What was restored from a link or a file, and what was not; nothing to say of nothing."""
    left = f" Left as it was: {', '.join(left_out)}." if left_out else ""
    if set_here:
        return f"Restored from {source}.{left} Press the button to run it."
    return f"Nothing in {source} could be set here.{left}" if left_out else ""


def lost_in(asked: Query, recipe: Recipe) -> list[str]:
    """What a link says of seed and model and its recipe does not: no seed, or edits of no model."""
    seed = asked.get("seed", "")
    is_read = bool(re.fullmatch("[0-9]{1,19}", seed)) and int(seed) == recipe.seed
    lost = ["seed"] if "seed" in asked and not is_read else []
    about_models = ("model", "revision", "edits") if recipe.model is None else ()
    return [*lost, *(name for name in about_models if name in asked)]


def progress(event: Progress, seconds: float, backward: bool = False, key: str = "") -> str:
    """A bar and a sentence: how far, how long, doing what; with the key of the run for the page."""
    share = 100 * event.done / max(event.total, 1)
    tone = "backward" if backward else "forward"
    steps = f"{event.done} of {event.total}" if event.done else ""
    words = " · ".join(part for part in (steps, f"{seconds:.1f} s", event.note) if part)
    mark = f' data-run="{key}"' if key else ""
    return (
        f'<div class="status running {tone}" role="status"{mark}>'
        f'<div class="bar" style="--done:{share:.1f}%"><i></i></div><p>{escape(words)}</p></div>'
    )


def failure(event: Failed) -> str:
    """What was wrong, what to try, and the number under which the log knows it."""
    number = f'<p class="note">Error id {escape(event.error_id)}</p>' if event.error_id else ""
    return (
        f'<div class="status failed" role="alert"><h3>{escape(event.message)}</h3>'
        f"<p>{escape(event.advice)}</p>{number}</div>"
    )


def finished(recipe: Recipe, seconds: float, place: str, route: str) -> str:
    """Time, seed and model of a run, with the link that repeats it."""
    model = f" · {model_title(recipe.model.source)}" if recipe.model else ""
    edits = f" with {len(recipe.model.edits)} edits" if recipe.model and recipe.model.edits else ""
    said = f"{seconds:.1f} s · seed {recipe.seed}{model}{edits}"
    try:
        address = escape(recipe_path(recipe, route))
        link = (
            f'<a data-link id="{place}-link" href="{address}">Link to this run</a> '
            f'<button type="button" class="copy" data-copy="{place}-link">Copy link</button>'
            f"{shared(recipe)}"
        )
    except BadInput as error:
        link = f'<span class="note">{escape(error)}</span>'
    return f'<div class="status done" role="status"><p>{escape(said)}</p><p>{link}</p></div>'


def shared(recipe: Recipe) -> str:
    """What a link gives away: the model it names is asked for by nothing but its digest."""
    model = recipe.model
    is_upload = model is not None and model.source.startswith("upload:")
    named = [word for word, has in (("upload", is_upload), ("edits", model and model.edits)) if has]
    if not named:
        return ""
    told = " and the ".join(named)
    return f' <span class="note">Whoever has the link can use the {told} that it names.</span>'


def recipe_view(recipe: Recipe, slug: str, url: str, route: str) -> str:
    """The recipe as link, JSON, command line and API call, each with a button that copies it."""
    try:
        link = f"{url}/{recipe_path(recipe, route)}"
    except BadInput as error:
        link = str(error)
    pieces = {
        "Link": link,
        "JSON": recipe.json(),
        "Command line": recipe.command(),
        "Python": recipe.api_call(url or "http://127.0.0.1:7860"),
    }
    rows = []
    for title, text in pieces.items():
        if len(text) > LONGEST_SHOWN:
            text = f"{len(text)} characters, with a picture inside: save it as a file."
        place = f"{slug}-{title.lower().replace(' ', '-')}"
        rows.append(
            f'<div class="form"><div><h4>{title}</h4>'
            f'<button type="button" class="copy" data-copy="{place}">Copy</button></div>'
            f'<pre tabindex="0" id="{place}">{escape(text)}</pre></div>'
        )
    save = (
        f'<a class="quiet" download="{escape(recipe.slug)}.json" href="data:application/json,'
        f'{quote(recipe.json())}">Save as JSON file</a>'
    )
    pictures = '<p class="note">Pictures saved as PNG carry their recipe inside.</p>'
    return f'<div class="recipe">{"".join(rows)}{save}{pictures}</div>'


def asks_for(slug: str, query: Query) -> bool:
    """Whether an address holds a recipe of this method."""
    return query.get("method", "").replace("-", "_") == slug


def recipe_path(recipe: Recipe, route: str) -> str:
    """The address of a recipe on this server, relative to the base of the pages."""
    return f"{route}?{recipe.query()}"


def claim_file(slug: str) -> str:
    """Where the figures of a claim lie on this server, relative to the base of the pages."""
    return f"gradio_api/file=assets/claims/{slug}.json"


def api_result(result: object, recipe: Recipe, edited: ModelRef | None = None) -> dict:
    """A result for clients: its plain values, its files as data URLs, and the recipe.

    After an edit also the model that it makes, as other recipes name it.
    """
    files = files_of(result, recipe)
    kinds = {".png": "image/png", ".csv": "text/csv", ".wav": "audio/wav"}
    return {
        "recipe": json.loads(files.pop("recipe.json")),
        "result": json.loads(files.pop("result.json")),
        **({"model": asdict(edited)} if edited else {}),
        "files": {
            name: f"data:{kinds.get(Path(name).suffix, 'application/octet-stream')};base64,"
            + base64.b64encode(content).decode("ascii")
            for name, content in files.items()
        },
    }


def golden_table(result: Any) -> str:
    """Golden cases with their error, tolerance and seconds, and a tick or a cross."""
    rows = "".join(
        f"<tr><td>{'✓' if case.error <= case.tolerance else '✗'}</td><td>{escape(case.name)}</td>"
        f"<td>{case.error:.2g}</td><td>{case.tolerance:.2g}</td><td>{case.seconds:.2f}</td></tr>"
        for case in result.cases
    )
    head = "<tr><th></th><th>case</th><th>largest error</th><th>tolerance</th><th>seconds</th></tr>"
    return f'<div class="scroll" tabindex="0"><table class="plain">{head}{rows}</table></div>'


def model_title(source: str) -> str:
    """The name of a model as visitors read it."""
    from engine.models.library import MODELS, source_title

    return MODELS[source].title.partition(":")[0] if source in MODELS else source_title(source)


def page_of(request: gr.Request | None) -> str:
    """What Gradio calls this very page of this visitor."""
    return str(getattr(request, "session_hash", None) or "")


def origin(request: gr.Request | None) -> str:
    """Scheme and host under which the visitor sees this server."""
    headers = getattr(request, "headers", None) or {}
    host = headers.get("x-forwarded-host") or headers.get("host")
    scheme = headers.get("x-forwarded-proto", "http").split(",")[0]
    return f"{scheme}://{host}" if host else ""


# ---------------------------------------------------------------------- values and failures


def whole_number(value: object, name: str) -> int:
    """The value as a whole number. Raises `BadInput` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise BadInput(f"{name} must be a whole number.", "Try 7.")
    if math.isinf(value) or value != int(value):
        raise BadInput(f"{name} must be a whole number, got {value}.", "Try 7.")
    return int(value)


def seed_of(value: object) -> int:
    """The seed in its field. Raises `BadInput` for anything else, an empty field included."""
    wanted = f"The seed must be a whole number from 0 to {LARGEST_SEED}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{wanted}; the field holds none.", "Try 7, or press Another.")
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise BadInput(f"{wanted}, got {value:.15g}.", "Try 7, or press Another.")
    return int(value)


def filled(control: Component, value: object) -> object:
    """The update that puts a value which fits into a control."""
    if isinstance(control, gr.Image):
        return gr.update(value=from_text(str(value)))
    if isinstance(control, gr.Gallery):
        return gr.update(value=[from_text(text) for text in value])  # type: ignore[attr-defined]
    if isinstance(control, gr.Audio):
        sound = sounds.from_text(str(value))
        return gr.update(value=(sound.rate, sound.samples))
    return gr.update(value=value)


def check_texts(controls: Mapping[str, Component], values: Values) -> None:
    """Raises `BadInput` for a text that is longer than its field says; Gradio itself lets it in."""
    for name, control in controls.items():
        longest = getattr(control, "max_length", None) or 10_000
        value = values.get(name)
        if isinstance(value, str) and len(value) > longest:
            raise BadInput(
                f"{control.label} has {len(value)} characters; at most {longest} are taken.",
                "Make it shorter.",
            )


def real_number(value: object, name: str) -> float:
    """The value as a number. Raises `BadInput` for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{name} must be a number.", "Put the slider where you want it.")
    return value


def fits(control: Component, value: object) -> bool:
    """Whether a value from outside may be put into a control."""
    if isinstance(control, gr.Slider | gr.Number):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return False
        low = -math.inf if control.minimum is None else control.minimum
        high = math.inf if control.maximum is None else control.maximum
        return low <= value <= high
    if isinstance(control, gr.CheckboxGroup):
        known = [choice for _, choice in control.choices]
        return isinstance(value, list) and all(item in known for item in value)
    if isinstance(control, gr.Dropdown | gr.Radio):
        known = [choice for _, choice in control.choices]
        typed = getattr(control, "allow_custom_value", False)
        if getattr(control, "multiselect", False):
            return isinstance(value, list) and all(
                item in known or (typed and isinstance(item, str) and len(item) < 500)
                for item in value
            )
        return value in known or (typed and isinstance(value, str) and len(value) < 500)
    if isinstance(control, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(control, gr.Image):
        return isinstance(value, str) and value.startswith(HEAD)
    if isinstance(control, gr.Gallery):
        return isinstance(value, list) and all(
            isinstance(text, str) and text.startswith(HEAD) for text in value
        )
    if isinstance(control, gr.Audio):
        return isinstance(value, str) and value.startswith(sounds.HEAD)
    if isinstance(control, gr.Textbox):
        return isinstance(value, str) and len(value) <= (control.max_length or 10_000)
    return False
