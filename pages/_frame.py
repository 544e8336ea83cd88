"""The frame around every panel: what a page adds is its controls and how a result is drawn.

    def build(frame: Frame) -> None:
        run = frame.stage("run", "Erase")
        with run.ask:
            word = gr.Textbox("neon style", label="Erase", elem_classes="headline")
        with run.settings:
            steps = gr.Slider(1, 50, value=10, step=1, label="Steps")
            frame.seed(2)
            frame.model()
        with run.shown:
            picture = gr.HTML("")
        with run.below:
            curve = plots.place("Error")
        run.wire({"word": word, "steps": steps}, draw, [picture, curve], number=drawn_in_neon)
        comeback = frame.stage("comeback", "Attack it", tab="It comes back")
        ...
        with frame.tab("Take it along"):
            taking.bakes(...)

    def draw(erased: Erased, recipe: Recipe, ended: bool) -> tuple[object, ...]: ...
    def drawn_in_neon(erased: Erased, recipe: Recipe) -> Number | None: ...

A stage is one job function with its places: the question, the one main button, the picture and the
one number of the claim are in one screen, at a desk and on a phone, before a run and after it. The
first stage is what the panel is there for and stands in the first tab; each further stage, and what
`frame.tab` encloses, is a tab beside it. A panel with a single one shows no tabs. A link to an
action opens its tab.

The names in the first argument of `wire` are the settings of the job function and of the recipe, so
one click, one link, one command line and one API call say the same thing. `draw` gets the result of
the job, or what it shows on the way, and gives a value for each output; those left out at the end
stay as they are. `number` reads the one number of the claim off the same results.

Every stage opens with a recording: the result of its default run, drawn by the same `draw` and
fetched with its tab (`pages._recordings`). `python -m scripts.record SLUG` makes it; defaults are
such that it shows the claim. On Home the recording of the first stage moves: the first film or the
first pictures of what is drawn, or what `film` of `wire` makes of the result, pictures or
sentences. `records=False` is for a stage whose defaults need something of the visitor's.

The frame adds model, seed, Run, Stop, progress, failures, the recipe in all its forms, the claim,
the lesson and the code that ran.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import gradio as gr
from gradio.components.base import Component

from engine.core.catalog import Entry, took
from engine.core.errors import AssetMissing
from engine.core.job import Done, Job, Progress
from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _markup as markup
from pages._actions import LARGEST_SEED, Action
from pages._endpoints import Runner, endpoint_of
from pages._handlers import guarded, named
from pages._lane import LANE
from pages._lessons import lesson_of, sheet
from pages._markup import escape
from pages._restoring import Restoring, asks_for
from pages._serving import QUIET, Query, Suite
from pages._shelf import Shelf
from pages._stage import Stage
from pages._status import model_title, recipe_path

if TYPE_CHECKING:
    from engine.core.golden import Golden

LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]


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
    actions: dict[str, Action] = field(default_factory=dict)
    model_field: gr.Dropdown | None = None
    seed_field: gr.Number | None = None
    failure: Failure | None = None
    tabs: gr.Tabs | None = None
    tab_of: dict[str, str] = field(default_factory=dict)  # id of the tab that an action stands in
    open_tab: str = ""

    def __post_init__(self) -> None:
        self.restoring = Restoring(self.entry, self.actions)
        self.recipe_view = gr.HTML(
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
        self.model_field = fields.model_picker(titles, elem_id=f"{self.entry.slug}-model")
        self.shelf.offer(self.model_field, titles, self.entry.card.title)
        return self.model_field

    def seed(self, value: int = 0) -> gr.Number:
        """The seed of the panel, with a button that draws another one; before the first `wire`."""
        if self.seed_field is not None:
            raise ValueError(f"{self.entry.slug} has its seed already; put it before what it runs.")
        with gr.Row(elem_classes="seed"):
            self.seed_field = fields.WholeNumber(
                value,
                label="Seed",
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
                elem_id=f"{self.entry.slug}-seed",
            )
            another = gr.Button("Another", size="sm", elem_classes="quiet", min_width=60)
        another.click(
            None, None, self.seed_field, js=f"() => Math.floor(Math.random() * {LARGEST_SEED})"
        )
        return self.seed_field

    def breaks(
        self,
        why: str,
        instead: str,
        params: Mapping[str, object],
        seed: int = 7,
        action: str = "run",
    ) -> None:
        """A setting in which the method fails, why, and what to use instead, after a colon."""
        recipe = Recipe(self.entry.slug, action, params=dict(params), seed=seed)
        self.failure = Failure(recipe, why, instead)

    def stage(
        self,
        name: str = "run",
        label: str = "Run",
        *,
        tab: str = "",
        backward: bool = False,
        records: bool = True,
    ) -> Stage:
        """One job function with its places, in a tab of its own; `tab` is the name of that."""
        with self.tab(tab or label, name):
            self.tab_of[name] = self.open_tab
            stage = Stage(self, name, label, backward, records=records)
        return stage

    @contextmanager
    def tab(self, title: str, key: str = "") -> Iterator[None]:
        """A tab of the panel around what is drawn inside; `key` is its id."""
        if self.tabs is None:
            self.tabs = gr.Tabs(elem_classes="inner", overflow_behavior="wrap")
        key = key or title.lower().replace(" ", "-")
        with self.tabs, gr.Tab(title, id=key):
            self.open_tab = key
            yield
            self.open_tab = ""

    def action(self, name: str = "run", label: str = "Run", *, backward: bool = False) -> Action:
        """The buttons and the progress line alone of a job function, drawn here, wired later.

        For what is taken along, say; what shows a picture is a `stage`.
        """
        self.tab_of[name] = self.open_tab
        return Action(self, name, label, backward)

    def on(
        self,
        event: Callable,
        handler: Callable,
        inputs: object,
        outputs: object,
        *,
        name: str,
        **more: object,
    ) -> None:
        """What the page alone calls at an event: it stands in no API and shows no progress."""
        event(named(handler, f"{self.entry.slug}_{name}"), inputs, outputs, **QUIET, **more)

    # ------------------------------------------------------------------ parts of every panel

    def _head(self) -> None:
        card = self.entry.card
        gr.HTML(
            f'<header class="panel-head"><h2 class="unseen">{escape(card.title)}</h2>'
            f'<p class="undoes"><span class="mark backward" aria-hidden="true">◀</span> '
            f"{escape(card.undoes)}</p></header>"
        )

    def close(self) -> None:
        """What stands below every panel, once its controls are known."""
        if self.tabs is not None:
            self.demo.opens(self.tabs, self._wanted_tab)
        self._claim()
        with gr.Accordion("How it works", open=False) as fold:
            lesson = gr.Markdown(latex_delimiters=LATEX, elem_classes="lesson")
        self._on_open(fold, lesson, self._lesson, "lesson")
        with gr.Accordion("The code that ran", open=False) as fold:
            code = gr.HTML()
        self._on_open(fold, code, self._code, "code")
        with gr.Accordion("Recipe: link, file, command line, API", open=False):
            self.recipe_view.render()
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
            measured = self.entry.measured()
        except AssetMissing:
            figures = f"<p>Not measured here yet. <code>{escape(bench)}</code> does it.</p>"
        else:
            low, high = measured.interval
            holds = claim.holds(measured.measured, measured.versus)
            versions = ", ".join(f"{name} {one}" for name, one in measured.versions.items())
            figures = markup.figures(
                {
                    claim.measure: f"{measured.measured:.3g}",
                    claim.versus: f"{measured.versus:.3g}",
                    "95 % interval": f"{low:.3g} – {high:.3g}",
                    "verdict": "✓ holds" if holds else "✗ does not hold",
                }
            ) + (
                f"<p class='note'>Measured by <code>{escape(bench)}</code>, "
                f"{took(measured.seconds)}, seed {measured.seed}, on {escape(measured.machine)}; "
                f"{escape(versions)}. Run the command to measure it again. "
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
        self.on(fold.expand, read, None, place, name=name, queue=False)

    def _wanted_tab(self, query: Query) -> str | None:
        """The tab of the action that an address asks for; None is the first one."""
        if not asks_for(self.entry.slug, query):
            return None
        return self.tab_of.get(query.get("action", "")) or None

    def _lesson(self) -> str:
        """The lesson of the method, and the publication that it follows."""
        paper = self.entry.card.paper
        code = f" Its code: <{paper.code}>." if paper.code else ""
        return (
            f"{self.entry.lesson}\n\nAfter [{paper.title}]({paper.link}), {paper.authors} "
            f"{paper.year}.{code} Undo: {self.entry.card.exactness.undo}."
        )

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
        lines = [action.status for action in self.actions.values()]
        outputs = [*self.restoring.slots(), *lines]
        restore = named(self.restoring.from_page, f"{self.entry.slug}_from_link")
        loaded = self.demo.restores(
            restore, outputs, lambda query: asks_for(self.entry.slug, query)
        )
        # Runs that were asked for meanwhile begin now, with what the link has set.
        loaded.then(None, js=f"() => rewindRuns.restored('{self.entry.slug}')")
        self.on(opened.upload, self.restoring.from_file, opened, outputs, name="from_file")

    def _api(self) -> None:
        for action in self.actions:
            name = f"{self.entry.slug}_{action}"
            handler = named(endpoint_of(self.entry, action, self.runner), name)
            gr.api(handler, api_name=name, **LANE)


def claim_file(slug: str) -> str:
    """Where the figures of a claim lie on this server, relative to the base of the pages."""
    return f"gradio_api/file=assets/claims/{slug}.json"


def golden_table(report: "Golden") -> str:
    """Golden cases with their error, tolerance and seconds, and a tick or a cross."""
    rows = [
        [
            "✓" if case.error <= case.tolerance else "✗",
            case.name,
            f"{case.error:.2g}",
            f"{case.tolerance:.2g}",
            f"{case.seconds:.2f}",
        ]
        for case in report.cases
    ]
    return markup.table(["", "case", "largest error", "tolerance", "seconds"], rows)
