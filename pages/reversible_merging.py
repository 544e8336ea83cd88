"""Reversible model merging: adapters are merged, seen as mush, and each is pulled out again."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.models.library import MODELS, adapter_sets, receive_adapters
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._markup import Html, escape
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.merging.reversible_merging.results import (
        BakedMerge,
        Counted,
        Film,
        Reverted,
        Score,
        Unmerged,
        Weighed,
    )

STYLES, TASKS = "world-styles", "eight-tasks"
FIRST = ("stained-glass", "candy", "gold", "x-ray", "sunset", "thermal")
PROMPTS = ("a penguin", "a house", "a car", "a rose")
MERGES = {
    "Factor average (p = 0)": "average",
    "Task arithmetic, factors": "linear",
    "Task arithmetic, products": "sum",
    "TIES, factors": "ties",
    "TIES, products": "ties products",
    "DARE, factors": "dare",
    "DARE and TIES, factors": "dare ties",
    "DARE, products": "dare products",
    "KnOTS and TIES": "knots",
    "TSV-M": "tsv",
    "Iso-C": "iso",
}
PEFT_MODES = (
    "linear", "svd", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd",
    "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
MERGES |= {f"PEFT: {mode}": f"peft {mode}" for mode in PEFT_MODES}
RIVALS = {
    "Layer basis": "layer",
    "Joint subspace": "joint",
    "Fewer ranks": "ranks",
    "RMM, aligned": "rmm aligned",
    "8-bit numbers": "int8",
}
WAYS = {"rmm": "RMM", **{name: title for title, name in RIVALS.items()}}
FORMS = {
    "The bundle: basis and reader": "bundle",
    "One rebuilt adapter, PEFT folder": "peft",
    "One rebuilt adapter, Kohya file": "kohya",
    "One merged adapter, PEFT folder": "merged",
    "A report of what was lost": "report",
}
THREE = ("Its own adapter", "Merged", "Pulled out again")
KINDS = ("own", "merged", "rebuilt")
FULL = 1.0  # storage of the adapters themselves


def build(frame: Frame) -> None:
    """Mush and what comes out of it; the film; then counted, weighed, reverted and taken along."""
    run = frame.stage("run", "Pull apart")
    with run.ask:
        prompt = gr.Textbox(
            PROMPTS[0],
            label="Draw",
            info="One prompt for all; the adapter alone says how it is drawn",
            elem_classes="headline",
            max_length=300,
            elem_id="rmm-prompt",
        )
        fields.suggestions("rmm-prompt", PROMPTS)
        p = gr.Slider(
            0,
            7,
            value=2,
            step=1,
            label="p: components kept beside the mean",
            info="0 is the average, n − 1 gives every adapter back",
            elem_id="rmm-p",
        )
    with run.settings:
        chosen, opened, mix = _settings(frame)
    with run.shown:
        pictures = gr.HTML(first_look(), elem_id="rmm-pictures")
    with run.below:
        numbers = gr.HTML("", elem_id="rmm-numbers")
    view = {"prompt": prompt} | {name: mix.pop(name) for name in ("steps", "guidance_scale")}
    basis = {"adapters": chosen, "align": mix.pop("align")}
    run.wire(
        {**basis, "p": p, **mix, **view},
        draw_run,
        [pictures, numbers],
        number=nearer,
        film=lambda result: [row.pictures[0] for row in result.rows if row.kind in KINDS[1:]],
        params=within,
        also=[prompt.submit],
        turned=[p],
    )
    _film(frame, basis, view)
    _counted(frame)
    _weighed(frame, chosen)
    adapter = _reverted(frame, basis, p, mix, view)
    frame.on(opened.upload, uploaded, [opened, chosen], [chosen, adapter], name="uploaded")
    with frame.tab("Take it along"):
        _take_along(frame, basis, p, mix)
    frame.breaks(
        "Adapters that did not start from the same seed lie far apart in the paper's "
        "basis. At p = 1 their styles are still mixed.",
        "Align, which turns them towards one another first; or a larger p.",
        {
            "adapters": [f"{STYLES}/{name}" for name in ("candy", "x-ray", "thermal")],
            "p": 1,
            "prompt": "a house",
        },
    )


def _settings(frame: Frame) -> tuple[gr.Dropdown, gr.UploadButton, Controls]:
    """Which adapters, the button that adds to them, and what they are compared with."""
    chosen = gr.Dropdown(
        shipped(STYLES),
        value=[f"{STYLES}/{name}" for name in FIRST],
        multiselect=True,
        allow_custom_value=True,
        label="Adapters",
        info="Shipped, uploaded, a Hub id (owner/name@revision), or a folder; a full fine-tune "
        "as: tuned.safetensors minus base.safetensors rank 16",
        elem_id="rmm-adapters",
    )
    opened = gr.UploadButton(
        "Upload LoRA files or zipped PEFT folders",
        file_types=[".safetensors", ".json", ".zip"],
        file_count="multiple",
        size="sm",
    )
    merge = gr.Dropdown(
        list(MERGES.items()), value="average", label="Merge beside it", info="One set for all"
    )
    frame.seed(3)
    frame.model()
    with gr.Accordion("More settings", open=False):
        mix: Controls = {
            "merge": merge,
            "weight": gr.Slider(
                0.05, 1.5, value=0.5, step=0.05, label="λ of the merge", info="Of every adapter"
            ),
            "density": gr.Slider(
                0.05, 1, value=0.4, step=0.05, label="Density", info="Share that TIES and DARE keep"
            ),
            "align": gr.Checkbox(
                False,
                label="Align the factors first",
                info="Beyond the paper: turn the adapters towards one another",
            ),
            **fields.sampling(10),
        }
    return chosen, opened, mix


def _film(frame: Frame, basis: Controls, view: Controls) -> None:
    """Every adapter at every p, to drag back and forth."""
    sweep = frame.stage("sweep", "Film every p", tab="From mush to the originals")
    with sweep.ask:
        gr.HTML(
            markup.notes(
                "Every adapter at every p, to drag back and forth. The bar is the storage that "
                "the basis takes; the line in it marks the size of the adapters themselves."
            )
        )
    with sweep.shown:
        film = gr.HTML("", elem_id="rmm-film")
    sweep.wire({**basis, **view}, draw_film, [film], number=returns)


def _counted(frame: Frame) -> None:
    """Eight tasks on one small vision transformer with one head: the share of right answers."""
    count = frame.stage("count", "Count the answers", tab="Counted")
    with count.ask:
        gr.HTML(
            markup.notes(
                "Eight tasks on one small vision transformer with one head: the adapter alone "
                "says which question is asked."
            )
        )
        p = gr.Slider(0, 7, value=2, step=1, label="p", elem_id="rmm-count-p")
    with count.settings:
        fields = _count_fields()
    with count.shown:
        curve = plots.place("Accuracy against storage", visible=False)
    with count.below:
        table = gr.HTML("", elem_id="rmm-count")
    count.wire({"p": p, **fields}, draw_count, [table, curve],
               number=answered, params=within, turned=[p])  # fmt: skip


def _count_fields() -> Controls:
    return {
        "adapters": gr.Dropdown(
            shipped(TASKS),
            value=[value for _, value in shipped(TASKS)],
            multiselect=True,
            label="Tasks",
            info="Two or more",
        ),
        "rivals": gr.CheckboxGroup(
            list(RIVALS.items()), value=["layer", "joint"], label="Rivals in storage"
        ),
        "merges": gr.Dropdown(
            list(MERGES.items()),
            value=["average", "sum", "ties", "dare"],
            multiselect=True,
            label="Merges",
        ),
        "weight": gr.Slider(0.05, 1.5, value=0.3, step=0.05, label="λ of the merges"),
        "align": gr.Checkbox(False, label="Align the factors first", info="Beyond the paper"),
        "after_training": gr.Checkbox(
            False,
            label="Compress by SVD after training",
            info="The paper's PT-SVD: forgets how training wrote the factors",
        ),
        "pictures": gr.Slider(20, 200, value=40, step=20, label="Pictures a task"),
    }


def _weighed(frame: Frame, chosen: gr.Dropdown) -> None:
    """What each way of keeping the adapters loses at which size, of their factors alone."""
    weigh = frame.stage("weigh", "Weigh the adapters", tab="Weighed")
    with weigh.ask:
        gr.HTML(
            markup.notes(
                "From the factors of the adapters of the first tab, without any base model: what "
                "each way of keeping them loses at which size. Upload your own to see theirs."
            )
        )
        storage = gr.Slider(
            0, 1.5, value=0, step=0.05, label="At most this storage", info="0 means no limit"
        )
        error = gr.Slider(
            0, 1, value=0, step=0.01, label="At most this loss", info="0 means no limit"
        )
    with weigh.shown:
        curve = plots.place("Error against storage", visible=False)
    with weigh.below:
        said = gr.HTML("", elem_id="rmm-weighed")
        energy = plots.place("Energy kept", visible=False)
    fields: Controls = {"adapters": chosen, "storage": storage, "error": error}
    weigh.wire(fields, draw_weigh, [said, curve, energy], number=size)


def _reverted(
    frame: Frame,
    basis: Controls,
    p: gr.Slider,
    mix: Controls,
    view: Controls,
) -> gr.Dropdown:
    """Gives the choice of the adapter, to which an upload adds."""
    revert = frame.stage("revert", "Revert to it", tab="Revert to one", backward=True)
    with revert.ask:
        adapter = gr.Dropdown(
            [*shipped(STYLES), *shipped(TASKS)],
            value=f"{STYLES}/gold",
            allow_custom_value=True,
            label="Adapter",
            info="Rebuilt out of the basis, loaded into the model and run. A task adapter, such "
            f"as {TASKS}/digits, answers instead of drawing",
        )
        prompts = gr.Textbox(
            "; ".join(PROMPTS), label="Prompts", max_length=400, info="With semicolons"
        )
    with revert.shown:
        shown = gr.HTML("", elem_id="rmm-reverted")
    fields = {**basis, "adapter": adapter, "p": p, **mix, "prompts": prompts}
    rest = {name: view[name] for name in ("steps", "guidance_scale")}
    revert.wire({**fields, **rest}, draw_reverted, [shown], number=missing, params=of_its_set)
    return adapter


def _take_along(frame: Frame, basis: Controls, p: gr.Slider, mix: Controls) -> None:
    gr.HTML(
        markup.notes(
            "A merge on your shelf can be picked in other panels and comes off bit for bit. Files "
            "are read back before you get them."
        )
    )
    fields = {"adapters": basis["adapters"], **mix}
    label = "Bake the merge and put it on the shelf"
    taking.bakes(frame, label, fields, taking.in_tensors, more=_lost)
    with gr.Row():
        form = gr.Dropdown(list(FORMS.items()), value="bundle", label="File")
        adapter = gr.Textbox("", label="Adapter to rebuild", info="Its name; empty: the first")
        half = gr.Checkbox(False, label="Bundle in half precision")
    fields = {**basis, "p": p, **mix, "form": form, "adapter": adapter, "half": half}
    taking.exports(frame, "Write the files", fields, taking.of_largest, params=within)


def _lost(result: "BakedMerge") -> str:
    """What adding the merge and subtracting it again would have lost."""
    rows = [
        [lost.number_format, f"{100 * lost.share:.1f} %", f"{100 * lost.patch_share:g} %"]
        for lost in result.lost
    ]
    head = ["weights that did not come back", "added, then subtracted", "as a patch, undone"]
    return markup.table(head, rows)


# ---------------------------------------------------------------------- fields


def shipped(key: str) -> list[tuple[str, str]]:
    """The shipped adapters of a set, by title; those of one start of lora_A are marked."""
    card = MODELS.get(key)
    told: Mapping[str, Any] = card.notes.get("adapters", {}) if card else {}  # type: ignore[assignment]
    return [
        (f"{name}{' (shared start)' if told[name].get('shares_init') else ''}", f"{key}/{name}")
        for name in adapter_sets().get(key, ())
    ]


def within(values: Settings) -> Settings:
    """A p beyond the last component is the last one."""
    p, most = values["p"], max(len(_adapters(values)) - 1, 0)
    return {**values, "p": min(int(p), most)} if most and isinstance(p, int | float) else values


def of_its_set(values: Settings) -> Settings:
    """A task adapter is reverted among the tasks, a style among the chosen adapters."""
    source, chosen = str(values.get("adapter") or ""), _adapters(values)
    if source.startswith(f"{TASKS}/"):
        values = {**values, "adapters": [value for _, value in shipped(TASKS)]}
    elif source.startswith((f"{STYLES}/", "upload:")) and source not in chosen:
        values = {**values, "adapters": [*chosen, source]}
    return within(values)


def _adapters(values: Settings) -> list[str]:
    chosen = values.get("adapters")
    return chosen if isinstance(chosen, list) else []


def uploaded(files: Sequence[str], chosen: Sequence[str]) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Keeps what was uploaded and chooses it in place of the shipped adapters, above and below."""
    with gradio_errors():
        sources = receive_adapters([Path(file) for file in files or []])
        mine = [source for source in chosen or [] if source.startswith("upload:")]
        listed = [*mine, *(source for source in sources if source not in mine)]
        names = [(source.rpartition("/")[2], source) for source in listed]
        choices = [*shipped(STYLES), *names]
        return (
            gr.Dropdown(choices=choices, value=listed, multiselect=True),
            gr.Dropdown(choices=[*choices, *shipped(TASKS)], value=sources[0]),
        )


# ---------------------------------------------------------------------- drawing


def first_look() -> str:
    return parts.before_and_after((None, None, None), (), FIRST[0], THREE)


def _first(result: "Unmerged") -> str:
    """The first adapter's picture: its own, of the merge, and pulled out again."""
    found = [next((row for row in result.rows if row.kind == kind), None) for kind in KINDS]
    return parts.before_and_after(
        [row.pictures[0] if row and row.pictures is not None else None for row in found],
        [row.lines[0] if row and row.lines else "" for row in found],
        result.names[0],
        THREE,
    )


def storage_bar(storage: float, said: str = "") -> str:
    """How much is kept, against the adapters themselves; what goes beyond them is red."""
    most = max(1.5, storage)
    inside, beyond = min(storage, FULL) / most, max(storage - FULL, 0.0) / most
    words = said or (
        f"{storage:.0%} of the adapters' size"
        if storage <= FULL
        else f"{storage:.0%}: more than the adapters themselves"
    ).replace("%", " %")
    strip = (
        f'<i style="display:block;width:{100 * inside:.1f}%;background:var(--backward)"></i>'
        f'<i style="display:block;width:{100 * beyond:.1f}%;background:var(--bad)"></i>'
        f'<b style="position:absolute;left:{100 * FULL / most:.1f}%;top:-3px;bottom:-3px;'
        'border-left:2px solid var(--ink)"></b>'
    )
    return (
        f'<div role="img" aria-label="storage {escape(words)}" style="position:relative;'
        f'display:flex;height:14px;background:var(--well);margin:10px 0 4px">{strip}</div>'
        f'<p class="note">Storage: {escape(words)}. The mark is 100 %.</p>'
    )


def draw_run(result: "Unmerged", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The sheet as it grows; at the end the storage and how far each adapter came back."""
    rows = {row.title: (row.pictures, row.lines) for row in result.rows}
    back = next((row.title for row in result.rows if row.kind == "rebuilt"), "")
    names = [name.replace("-", " ") for name in result.names]
    sheet = _first(result) + storage_bar(result.storage) + parts.sheet(names, rows, backward=back)
    if not ended:
        return (sheet,)
    return sheet, _came_back(result)


def nearer(result: "Unmerged", recipe: Recipe) -> Number | None:
    """How far the pictures are from those of their own adapter: merged, and pulled out again."""
    if not result.apart or not result.merged_apart:
        return None
    merged, apart = (sum(each) / len(each) for each in (result.merged_apart, result.apart))
    what = f"distance to its own picture, of 255: merged → pulled out at p = {result.p}"
    return Number(what, f"{apart:.0f}", f"{merged:.0f}")


def _came_back(result: "Unmerged") -> str:
    assert result.trip is not None  # a run that ended has come back
    rows = [
        [name, f"{error:.4f}", f"{apart:.1f}", f"{merged:.1f}"]
        for name, error, apart, merged in zip(
            result.names, result.errors, result.apart, result.merged_apart, strict=True
        )
    ]
    head = ["adapter", f"error of its delta, p = {result.p}"]
    head += ["picture, mean difference to its own", "the same for the merge"]
    return markup.table(head, rows) + markup.notes(
        f"At p = {result.largest_p} the factors come back {result.trip.exactness}: "
        f"largest error {result.trip.relative_error:.0e} of the largest factor. The adapters hold "
        f"{result.megabytes:.1f} MB as fp16.",
        *result.notes,
    )


def draw_film(result: "Film", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """One card an adapter with a frame for each p, and the storage as a film of its own."""
    if result.frames is None:
        return ()
    last = result.frames.shape[1] - 1
    shots = [
        Shot(
            name.replace("-", " "),
            result.frames[i, last],
            f"{result.prompt}, adapter {name}, p = {last}",
            (result.verdicts[last][i],),
            frames=result.frames[i],
            backward=True,
        )
        for i, name in enumerate(result.names)
    ]
    bars = np.stack([bar_frame(storage) for storage in result.storages[: last + 1]])
    told = " · ".join(
        f"p = {p}: {s:.0%}".replace("%", " %") for p, s in enumerate(result.storages[: last + 1])
    )
    shots.append(Shot("storage", bars[-1], f"storage by p: {told}", (told,), frames=bars))
    return (parts.shots(shots, scrub=True, ends=("p = 0, the average", f"p = {last}")),)


def returns(result: "Film", recipe: Recipe) -> Number | None:
    """How far the pictures are from those of their own adapters, at the first p and at the last."""
    if result.frames is None or result.own is None or result.frames.shape[1] < 2:
        return None
    gaps = [float(np.abs(result.frames[:, p].astype(float) - result.own).mean()) for p in (0, -1)]
    what = f"distance to its own picture, of 255: p = 0 → p = {result.frames.shape[1] - 1}"
    return Number(what, f"{gaps[1]:.1f}", f"{gaps[0]:.0f}")


def bar_frame(storage: float, side: int = 64, most: float = 1.75) -> np.ndarray:
    """The storage as a picture: a column that grows, with a line at 100 %; red above it."""
    frame = np.full((side, side, 3), (243, 240, 233), np.uint8)
    height = round(side * min(storage, most) / most)
    line = round(side * FULL / most)
    columns = slice(side // 4, side - side // 4)
    frame[side - min(height, line) :, columns] = (91, 127, 234)
    if height > line:
        frame[side - height : side - line, columns] = (163, 38, 42)
    frame[side - line - 1 : side - line + 1] = (29, 27, 24)
    return frame


def draw_count(result: "Counted", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Accuracy per task as it is counted, and the curve against storage."""
    if result.own is None:
        return ()
    table = _count_table(result)
    if not result.rebuilt:
        return (table,)
    return table, plots.shown(_count_plot(result))


def answered(result: "Counted", recipe: Recipe) -> Number | None:
    """The share of right answers: of the best merge, and rebuilt out of the basis."""
    at_p = next((score for score in result.rebuilt if score.budget == result.p), None)
    if at_p is None or not result.merged:
        return None
    best = max(score.mean for score in result.merged)
    what = f"right answers: best merge → rebuilt at p = {result.p}"
    return Number(what, f"{100 * at_p.mean:.0f} %", f"{100 * best:.0f} %")


def _count_table(result: "Counted") -> str:
    at_p = next((s for s in result.rebuilt if s.budget == result.p), None)
    best = max(result.merged, key=lambda s: s.mean, default=None)
    counted = [
        ("base alone", result.base, "muted"),
        ("its own adapter", result.own, "forward"),
        (f"merged: {title_of(best.way)}" if best else "", best, "s3"),
        (f"rebuilt, p = {result.p}", at_p, "backward"),
    ]
    columns = [(title, score, tone) for title, score, tone in counted if score is not None]
    rows: list[list[object]] = [
        [
            Html(f"{escape(task)}<br><span class='note'>{escape(question)}</span>"),
            *(_bar(score.right[i], tone) for _, score, tone in columns),
        ]
        for i, (task, question) in enumerate(zip(result.tasks, result.questions, strict=True))
    ]
    means = [Html(f"<b>{100 * score.mean:.1f} %</b>") for _, score, _ in columns]
    table = markup.table(
        ["task", *(title for title, _, _ in columns)], [*rows, [Html("<b>mean</b>"), *means]]
    )
    pictures = f"{result.pictures} pictures a task, none of them trained on."
    if best is not None:
        pictures += " Of the merges counted, the best one is shown."
    bar = storage_bar(at_p.storage) if at_p is not None else ""
    return bar + table + markup.notes(pictures, *result.notes)


def _bar(share: float, tone: str) -> Html:
    return Html(
        '<span style="display:block;min-width:64px;background:var(--well)"><i style="display:block;'
        f'height:6px;width:{100 * share:.0f}%;background:var(--{tone})"></i></span>'
        f"{100 * share:.0f} %"
    )


def title_of(way: str) -> str:
    """The title of a merge or of a way to rebuild."""
    return next((title for title, name in MERGES.items() if name == way), WAYS.get(way, way))


def _count_plot(result: "Counted") -> PlotData:
    """Mean accuracy against storage: RMM, its rivals, and the merges as single points."""
    lines = [_score_line(WAYS.get(result.rebuilt[0].way, "RMM"), result.rebuilt, 0, backward=True)]
    ways = list(dict.fromkeys(score.way for score in result.rivals))
    for place, way in enumerate(ways):
        scores = [score for score in result.rivals if score.way == way]
        lines.append(_score_line(WAYS.get(way, way), scores, place))
    for place, score in enumerate(result.merged):
        lines.append(_score_line(title_of(score.way), [score], place + len(ways)))
    span = [0.0, 100 * max(score.storage for score in result.rebuilt)]
    for name, level in (("own adapters", result.own), ("base alone", result.base)):
        if level is not None:
            ends = [100 * level.mean] * 2
            lines.append(Line(name, span, ends, neutral=True, marks=False))
    lines.append(Line("100 % storage", [100, 100], [0, 100], neutral=True, marks=False))
    return plots.curves(lines, "storage, % of the adapters", "right answers, %", height=420)


def _score_line(name: str, scores: "Sequence[Score]", place: int, backward: bool = False) -> Line:
    ordered = sorted(scores, key=lambda score: score.storage)
    return Line(
        name,
        [100 * score.storage for score in ordered],
        [100 * score.mean for score in ordered],
        place,
        backward=backward,
        hover=[
            f"{name}{f', {s.budget}' if s.budget >= 0 else ''}: {100 * s.mean:.1f} % right at "
            f"{100 * s.storage:.0f} % storage"
            for s in ordered
        ],
    )


def draw_weigh(result: "Weighed", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The cosine map and both curves."""
    if not ended:
        return ()
    survey = result.survey
    lines = []
    for place, (way, title) in enumerate(WAYS.items()):
        points = [p for p in survey.curve(way) if p.error > 0]
        if points:
            lines.append(
                Line(
                    title,
                    [100 * p.storage for p in points],
                    [max(p.error, 1e-8) for p in points],
                    place - 1,
                    backward=way == "rmm",
                    hover=[
                        f"{title}, {p.budget}: error {p.error:.3g} at {100 * p.storage:.0f} %"
                        for p in points
                    ],
                )
            )
    lines = [_above(line, 1e-6) for line in lines]
    curve = plots.curves(
        lines, "storage, % of the adapters", "relative squared error of the deltas", log_y=True
    )
    energy = plots.curves(
        [
            Line(
                "energy kept",
                range(len(survey.energy)),
                [100 * kept for kept in survey.energy],
                backward=True,
            )
        ],
        "p",
        "deviation kept, %",
        height=260,
    )
    return (
        _weighed_table(result),
        plots.shown(curve),
        plots.shown(energy),
    )


def size(result: "Weighed", recipe: Recipe) -> Number:
    """How much of the adapters' size the chosen p takes."""
    what = f"storage at p = {result.chosen}, of the adapters' own size"
    return Number(what, f"{100 * result.chosen_storage:.0f} %")


def _above(line: Line, floor: float) -> Line:
    """The line without points that are only round-off."""
    kept = [i for i, y in enumerate(line.y) if y > floor]
    return Line(
        line.name,
        [line.x[i] for i in kept],
        [line.y[i] for i in kept],
        line.place,
        backward=line.backward,
        hover=[line.hover[i] for i in kept],
    )


def _weighed_table(result: "Weighed") -> str:
    survey = result.survey
    heat = parts.shots(
        [
            Shot(
                "cosines of the deltas",
                parts.heat_map(survey.cosine),
                f"heat map of {len(survey.names)} by {len(survey.names)} cosines",
                (
                    "orange above 0, blue below; the diagonal is 1",
                    f"largest between two: {_largest_off(survey.cosine):+.2f}",
                ),
            )
        ]
    )
    rows = [
        [name, f"{norm:.3g}", *map(_error, survey.errors[:, i])]
        for i, (name, norm) in enumerate(zip(survey.names, survey.norms, strict=True))
    ]
    table = markup.table(
        ["adapter", "norm", *(f"p = {p}" for p in range(len(survey.errors)))], rows
    )
    taken = f"p = {result.chosen} takes {100 * result.chosen_storage:.0f} % of the adapters' size"
    return (
        f'<div class="beside">{heat}<div>{storage_bar(result.chosen_storage, taken)}'
        + markup.notes("Relative squared error of each rebuilt delta.")
        + f"{table}{markup.notes(*result.notes)}</div></div>"
    )


def _largest_off(cosine: np.ndarray) -> float:
    off = cosine - np.diag(np.diag(cosine))
    return float(off.flat[int(np.abs(off).argmax())]) if off.size > 1 else 0.0


def _error(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def missing(result: "Reverted", recipe: Recipe) -> Number:
    """What the rebuilt adapter misses of its own weights."""
    return Number("missing of the adapter's weights, rebuilt", f"{100 * result.error:.1f} %")


def draw_reverted(result: "Reverted", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Base, own, merged, reverted: what each draws or answers."""
    if not ended:
        return ()
    back = next(row.title for row in result.rows if row.kind == "rebuilt")
    rows = {row.title: (row.pictures, row.lines) for row in result.rows}
    question = f"{result.question} Above the pictures the right answer. " if result.question else ""
    error = f"{question}Error of the rebuilt delta: {result.error:.4f}."
    sheet = parts.sheet(result.columns, rows, backward=back)
    return (sheet + markup.notes(error, *result.notes),)
