"""Lessons: worksheets as they lie in assets/worksheets, one JSON file a method.

    {"goal": "...", "minutes": 15, "needs": ["nfe-lab"], "intro": "...",
     "tasks": [{"do": "...", "predict": "...", "reveal": "...", "action": "run",
                "params": {...}, "seed": 7, "controls": ["nfe"]}, ...],
     "look_for": "...", "take_home": "...", "station": {"title": "...", "minutes": 15}}

`controls` are the settings a visitor turns in this task; by default those that the task sets. The
others are put away while the lesson is open. `goal`, `look_for` and `take_home` are sentences for
the sheet. A lesson with a `station` is a part of the ready course, for as many minutes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.catalog import Entry
from engine.core.recipe import Plain, Recipe
from pages._look import ASSETS
from pages._markup import escape

FOLDER = ASSETS / "worksheets"


@dataclass(frozen=True)
class Task:
    """One experiment: what to do, what to predict, and what to compare the prediction with."""

    do: str
    predict: str
    reveal: str
    action: str = "run"
    params: Mapping[str, Plain] = field(default_factory=dict)
    seed: int = 0
    controls: Sequence[str] = ()

    @property
    def narrowed(self) -> Sequence[str]:
        """The settings that stay in sight."""
        return self.controls or list(self.params)


@dataclass(frozen=True)
class Station:
    """The part of a lesson that the ready course takes."""

    title: str
    minutes: int


@dataclass(frozen=True)
class Lesson:
    """A worksheet of one method."""

    goal: str
    minutes: int
    intro: str
    tasks: Sequence[Task]
    look_for: str
    take_home: str
    needs: Sequence[str] = ()
    station: Station | None = None

    @classmethod
    def read(cls, path: Path) -> "Lesson":
        """The lesson in a file."""
        sheet = json.loads(path.read_text("utf-8"))
        if station := sheet.get("station"):
            sheet["station"] = Station(**station)
        return cls(**{**sheet, "tasks": [Task(**task) for task in sheet["tasks"]]})


def lesson_of(entry: Entry) -> Lesson | None:
    """The lesson of a method, if it has one."""
    path = FOLDER / f"{entry.slug}.json"
    return Lesson.read(path) if path.exists() else None


def address(entry: Entry, number: int) -> str:
    """The link that sets a task up with the sheet beside the panel; tasks count from 1."""
    lesson = lesson_of(entry)
    task = lesson.tasks[number - 1] if lesson else Task("", "", "")
    recipe = Recipe(entry.slug, task.action, params=task.params, seed=task.seed)
    return f"{entry.card.family.route.strip('/')}?{recipe.query()}&lesson={number}"


def sheet(entry: Entry, lesson: Lesson) -> str:
    """The worksheet: goal, tasks with a place for a prediction, and what to take home."""
    tasks = "".join(_task(entry, task, n) for n, task in enumerate(lesson.tasks, start=1))
    return (
        f'<div class="worksheet" data-sheet="{escape(entry.name)}" '
        f'data-title="{escape(entry.card.title)}">'
        f'<p class="goal"><b>Goal.</b> {escape(lesson.goal)} '
        f'<span class="note">About {lesson.minutes} minutes.</span></p>'
        f"<p>{escape(lesson.intro)}</p><ol>{tasks}</ol>"
        f"<p><b>What to look for.</b> {escape(lesson.look_for)}</p>"
        f"<div data-task><p><b>To take home.</b></p><label>{escape(lesson.take_home)}"
        f'<textarea rows="3" data-answer="{len(lesson.tasks) + 1}"></textarea></label></div>'
        '<p class="sheet-buttons"><button type="button" class="copy" data-export>Save my answers'
        '</button> <button type="button" class="copy" data-widen>Show all controls</button></p>'
        "</div>"
    )


def _task(entry: Entry, task: Task, number: int) -> str:
    controls = escape(" ".join(task.narrowed))
    return (
        f'<li data-task data-number="{number}" data-controls="{controls}" '
        f'data-button="{escape(entry.slug)}-{escape(task.action)}">'
        f"<p>{escape(task.do)} "
        f'<a class="quiet" href="{escape(address(entry, number))}">Set it up</a></p>'
        f"<label>{escape(task.predict)}"
        f'<textarea rows="2" data-answer="{number}"></textarea></label>'
        "<details><summary>Compare with what to expect</summary>"
        f"<p>{escape(task.reveal)}</p></details></li>"
    )
