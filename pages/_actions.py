"""A click to a result: the buttons of one job function, and what they do.

A click gives the values of the controls; they become a recipe, the recipe a job, and the events of
the job what the panel draws, the line below the button and the recipe in all its forms.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import gradio as gr
import numpy as np
from gradio.components.base import Component
from gradio.events import Dependency

from engine.core.catalog import Entry
from engine.core.errors import BadInput, EngineError
from engine.core.job import Done, Failed, Progress
from engine.core.lane import Waiting
from engine.core.recipe import Recipe
from engine.core.runs import Run
from pages import _recordings as recordings
from pages._endpoints import Runner
from pages._fields import Controls, Settings
from pages._handlers import error_of, gradio_errors, named
from pages._lane import LANE
from pages._recordings import Number
from pages._serving import QUIET, Suite
from pages._shelf import model_ref
from pages._status import (
    failure,
    finished,
    note,
    origin,
    progress,
    recipe_view,
    recorded,
    waiting_line,
)

# Result or preview, its recipe, and whether the run has ended: the outputs in their order. Those
# left out at the end stay as they are.
Draw: TypeAlias = Callable[[Any, Recipe, bool], Sequence[object]]
# Result or preview, and its recipe: the one number of it, None as long as there is none.
Count: TypeAlias = Callable[[Any, Recipe], Number | None]
# A result as a few states for Home, pictures `h w 3` or sentences, from the first to the last.
Film: TypeAlias = Callable[[Any], Sequence[np.ndarray | str]]
Convert: TypeAlias = Callable[[Settings], Settings]
# Hangs something on the end of a run, and gives the last event of it.
Settle: TypeAlias = Callable[[Dependency], Dependency]

SECONDS_BETWEEN_DRAWINGS = 0.12

LARGEST_SEED = 2**31 - 1

NOT_KEPT = "The run that was under way is not kept any more. Press the button to run it again."


class Restores(Protocol):
    """How a panel puts the recipe of a run back into its controls."""

    def of_run(self, action: "Action", recipe: Recipe) -> list[object]: ...


class Panel(Protocol):
    """What an action needs of the panel that it stands in, such as `pages._frame.Frame`."""

    entry: Entry
    demo: Suite
    actions: dict[str, "Action"]
    recipe_view: gr.HTML
    model_field: gr.Dropdown | None
    seed_field: gr.Number | None

    @property
    def runner(self) -> Runner: ...
    @property
    def route(self) -> str: ...
    @property
    def restoring(self) -> Restores: ...
    def model(self) -> gr.Dropdown: ...
    def seed(self) -> gr.Number: ...


class Action:
    """Run (or Rewind) and Stop, the line that says how far it is, and what they do."""

    def __init__(self, frame: Panel, name: str, label: str, backward: bool) -> None:
        self.frame, self.name, self.label, self.backward = frame, name, label, backward
        self.number: gr.HTML | None = None
        slug = frame.entry.slug
        self.recording = recordings.find(slug, name)
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
        told = recorded(self.recording.made, label) if self.recording else note("")
        self.status = gr.HTML(told, elem_id=f"{slug}-{name}-status", elem_classes="status-box")

    def wire(
        self,
        inputs: Controls,
        draw: Draw,
        outputs: Sequence[Component],
        *,
        number: Count | None = None,
        film: Film | None = None,
        params: Convert | None = None,
        back: Convert | None = None,
        also: Sequence[Callable] = (),
        turned: Sequence[Component] = (),
        settles: Settle | None = None,
    ) -> None:
        """Connects the buttons; `inputs` are the job's settings by name, `also` further triggers.

        `number` reads the one number of the claim off a result, or off what is shown on the way.
        `film` makes of a result what moves on Home; by default the first film or the first
        pictures of what is drawn.

        A visitor who changes the value of a control in `turned` starts a run, too; one who only
        passes it does not, though Gradio calls that a `release` or an `input`. A run follows for
        the last of the triggers that come in while one is under way. `params` turns the values of
        the controls into settings where they differ, and `back` turns settings into values of
        controls. `settles` hangs on a run what the page does with its result, such as putting an
        edit on the shelf: the run is called done after that.
        """
        frame = self.frame
        seed = frame.seed() if frame.seed_field is None else frame.seed_field
        controls: Controls = {**inputs, "seed": seed}
        if frame.entry.models(self.name):
            controls["model"] = frame.model() if frame.model_field is None else frame.model_field
        frame.actions[self.name] = self
        self.controls, self.back = controls, back or dict
        place = f"{frame.entry.slug}-{self.name}"
        for setting, control in controls.items():
            # A lesson puts away what its task does not need; see rewind.js.
            control.elem_classes = [*control.elem_classes, "setting", f"set-{setting}"]
        for control in turned:
            control.elem_classes = [*control.elem_classes, "turned", f"turned-{place}"]
        self.settles = settles is not None
        self.draw: Draw = draw
        self.film: Film | None = film
        self.count: Count = number or (lambda result, recipe: None)
        self.params: Convert = params or dict
        self.places = [*outputs, *([self.number] if self.number else [])]
        self.outputs = [*self.places, self.status, frame.recipe_view]
        panel = f"{frame.entry.slug}_{self.name}_panel"
        # The page itself says when `go` and `halt` may be pressed; see the runs in rewind.js.
        line = {"inputs": self.status, "outputs": self.status, "show_progress": "hidden"}
        failed = f"(said) => rewindRuns.failed('{place}', said)"
        asked = [self.start.click, *also]
        gr.on(asked, None, **line, js=f"() => rewindRuns.ask('{place}')")
        self.stop.click(None, **line, js=f"(said) => rewindRuns.stop('{place}', said)")
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
        left = self.again.click(
            named(self._go_on, f"{panel}_again"),
            self.again,
            [*controls.values(), *self.outputs],
            js=f"() => rewindRuns.left('{place}')",
            api_visibility="private",
            show_progress="hidden",
            show_progress_on=self.again,
            **LANE,
        )
        for run in (event, left):
            run.failure(None, **line, js=failed)
            if settles is not None:
                run = settles(run)
                run.failure(None, **line, js=failed)
            run.success(None, **line, js=f"(said) => rewindRuns.done('{place}', said)")
        self.halt.click(
            named(self._halt, f"{panel}_halt"),
            None,
            None,
            cancels=[event, left],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        ).then(None, **line, js=f"(said) => rewindRuns.halted('{place}', said)")
        self._opens_recorded()

    def _opens_recorded(self) -> None:
        """The places hold the recording until the first run: the page itself puts it there."""
        if self.recording is None:
            return
        name = f"{self.frame.entry.slug}-{self.name}"
        places = [place for place in self.recording.places if place < len(self.places)]
        address = recordings.address(self.recording)
        gr.Button(elem_id=f"{name}-recorded", visible="hidden").click(
            None,
            None,
            [self.places[place] for place in places],
            js=f"() => rewindRecordings.read('{name}', '{address}', {places})",
            **QUIET,
        )

    def _run(self, request: gr.Request, **values: object) -> Iterator[list[object]]:
        """Runs the method with the settings of the panel and draws what happens."""
        with gradio_errors():
            try:
                recipe = self.recipe(values)
                job = recipe.job(self.frame.entry.target(recipe.action))
            except EngineError as error:
                refusal = failure(Failed(error.message, error.advice))
                yield [*self._nothing(), refusal, gr.skip()]
                raise
        begin = partial(self.frame.runner, job)
        run = self.frame.demo.runs.start(begin, recipe, page_of(request))
        try:
            yield from self._drawn(run, request)
        finally:
            if is_program(request):  # that does not come back, as a page does after a reload
                run.stop()

    def _go_on(self, key: str, request: gr.Request) -> Iterator[list[object]]:
        """Finds the run that was under way when the page was left, and draws what happens."""
        frame = self.frame
        run = frame.demo.runs.find(str(key))
        recipe = run.recipe if run else None
        if run is None or recipe is None or (recipe.method, recipe.action) != self.known_as:
            skipped = [gr.skip()] * len(self.controls)
            yield [*skipped, *self._nothing(), note(NOT_KEPT), gr.skip()]
            return
        controls = frame.restoring.of_run(self, recipe)
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
        return [gr.skip()] * len(self.places)

    def shows(self, event: Progress | Done, recipe: Recipe) -> list[object]:
        """What the panel draws of an event, each of its outputs; nothing before there is any."""
        ended = isinstance(event, Done)
        result = event.result if isinstance(event, Done) else event.preview
        if result is None:
            return self._nothing()
        shown = list(self.draw(result, recipe, ended))
        shown += self._nothing()[len(shown) :]
        if self.number and (number := self.count(result, recipe)):
            shown[-1] = number.html()
        return shown

    def _drawn(self, run: Run, request: gr.Request) -> Iterator[list[object]]:
        """A run as it goes on: what the panel draws, the line below the button, the recipe."""
        frame, recipe, waiting = self.frame, run.recipe, self._nothing()
        loading = Progress(0, 1, "Loading the model")
        yield [*waiting, progress(loading, run.seconds, self.backward, run.key), gr.skip()]
        drawn, shown = -math.inf, list(waiting)
        for event in run.watch(page_of(request)):
            if isinstance(event, Failed):
                yield [*waiting, failure(event), gr.skip()]
                raise error_of(event)
            if isinstance(event, Waiting):
                yield [*waiting, waiting_line(event, run.key), gr.skip()]
            elif isinstance(event, Progress):
                if time.monotonic() - drawn < SECONDS_BETWEEN_DRAWINGS:
                    continue
                before, shown = shown, self.shows(event, recipe)
                yield [
                    *changed(before, shown),
                    progress(event, run.seconds, self.backward, run.key),
                    gr.skip(),
                ]
                drawn = time.monotonic()
            else:
                place = f"{frame.entry.slug}-{self.name}"
                settling = run.key if self.settles else ""
                yield [
                    *self.shows(event, recipe),
                    finished(recipe, run.seconds, place, frame.route, settling=settling),
                    recipe_view(recipe, frame.entry.slug, origin(request), frame.route),
                ]

    def recipe(self, values: Mapping[str, object]) -> Recipe:
        """The recipe of a click. Raises `BadInput` when a value cannot be used."""
        rest = without_blanks(self.controls, values)
        check_texts(self.controls, rest)
        model = model_ref(rest.pop("model")) if "model" in rest else None
        seed = seed_of(rest.pop("seed", 0))
        return Recipe(self.frame.entry.slug, self.name, model, self.params(rest), seed).here()


def changed(before: Sequence[object], after: Sequence[object]) -> list[object]:
    """What must be sent: outputs that are as they were are skipped."""
    return [gr.skip() if old == new else new for old, new in zip(before, after, strict=True)]


def page_of(request: gr.Request | None) -> str:
    """What Gradio calls this very page of this visitor."""
    return str(getattr(request, "session_hash", None) or "")


def is_program(request: gr.Request | None) -> bool:
    """Whether a client calls, and no page."""
    headers = getattr(request, "headers", None) or {}
    return headers.get("x-gradio-user") in ("api", "mcp")


def seed_of(value: object) -> int:
    """The seed in its field. Raises `BadInput` for anything else, an empty field included."""
    wanted = f"The seed must be a whole number from 0 to {LARGEST_SEED}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{wanted}; the field holds none.", "Try 7, or press Another.")
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise BadInput(f"{wanted}, got {value:.15g}.", "Try 7, or press Another.")
    return int(value)


def without_blanks(controls: Controls, values: Mapping[str, object]) -> dict[str, object]:
    """The values with an empty text where a text field holds nothing, as a cleared one may."""
    return {
        name: "" if value is None and isinstance(controls.get(name), gr.Textbox) else value
        for name, value in values.items()
    }


def check_texts(controls: Controls, values: Mapping[str, object]) -> None:
    """Raises `BadInput` for a text that is longer than its field says; Gradio itself lets it in."""
    for name, control in controls.items():
        longest = getattr(control, "max_length", None) or 10_000
        value = values.get(name)
        if isinstance(value, str) and len(value) > longest:
            raise BadInput(
                f"{control.label} has {len(value)} characters; at most {longest} are taken.",
                "Make it shorter.",
            )
