"""Reversible model merging: adapters are merged, seen as mush, and each is pulled out again."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from engine.models.library import MODELS, adapter_sets, receive_adapters
from pages import _parts as parts
from pages import _taking as taking
from pages._frame import Frame
from pages._handlers import friendly, named
from pages._parts import escape

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
PLOT = {"show_label": False, "container": False}
FULL = 1.0  # storage of the adapters themselves


def build(frame: Frame) -> None:
    """Mush and what comes out of it; the film; then counted, weighed, reverted and taken along."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            prompt = gr.Textbox(
                PROMPTS[0],
                label="Draw",
                info="One prompt for all; the adapter alone says how it is drawn",
                elem_classes="headline",
                max_length=300,
                elem_id="rmm-prompt",
            )
            parts.suggestions("rmm-prompt", PROMPTS)
            run = frame.action("run", "Merge and pull apart")
            p = gr.Slider(
                0,
                7,
                value=2,
                step=1,
                label="p: components kept beside the mean",
                info="Drag it: 0 is the average, n − 1 gives every adapter back",
                elem_id="rmm-p",
            )
        with gr.Column(elem_classes="settings"):
            chosen, opened, mix = _settings(frame)
        with gr.Column(elem_classes="shown"):
            pictures = gr.HTML(first_look(), elem_id="rmm-pictures")
    numbers = gr.HTML("", elem_id="rmm-numbers")
    view = {"prompt": prompt, "steps": mix.pop("steps"), "guidance_scale": mix.pop("guidance")}
    basis = {"adapters": chosen, "align": mix.pop("align")}
    run.wire(
        {**basis, "p": p, **mix, **view},
        draw_run,
        [pictures, numbers],
        params=within,
        also=[prompt.submit],
        turned=[p],
    )
    _film(frame, basis, view)
    _counted(frame)
    _weighed(frame, chosen)
    adapter = _reverted(frame, basis, p, mix, view)
    opened.upload(
        named(uploaded, "rmm_uploaded"),
        [opened, chosen],
        [chosen, adapter],
        api_visibility="private",
        show_progress="hidden",
    )
    _take_along(frame, basis, p, mix)
    frame.breaks(
        "Adapters that did not start from one seed lie apart in the paper's basis: at p = 1 their "
        "styles are still mixed.",
        "Align, which turns them towards one another first; or a larger p.",
        {
            "adapters": [f"{STYLES}/{name}" for name in ("candy", "x-ray", "thermal")],
            "p": 1,
            "prompt": "a house",
        },
    )


def _settings(frame: Frame) -> tuple[gr.Dropdown, gr.UploadButton, dict[str, Any]]:
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
        mix: dict[str, Any] = {
            "merge": merge,
            "weight": gr.Slider(
                0.05, 1.5, value=0.5, step=0.05, label="λ of the merge", info="Of every adapter"
            ),
            "density": gr.Slider(
                0.05, 1, value=0.4, step=0.05, label="Density", info="What TIES and DARE keep"
            ),
            "align": gr.Checkbox(
                False,
                label="Align the factors first",
                info="Beyond the paper: turn the adapters towards one another",
            ),
            "steps": gr.Slider(4, 50, value=10, step=1, label="Sampler steps"),
            "guidance": gr.Slider(1, 12, value=4, step=0.5, label="Guidance"),
        }
    return chosen, opened, mix


def _film(frame: Frame, basis: Mapping[str, Any], view: Mapping[str, Any]) -> None:
    parts.heading(
        "From mush to the originals",
        "Every adapter at every p, to drag back and forth. The bar is what the basis takes; the "
        "line in it is the size of the adapters themselves.",
    )
    sweep = frame.action("sweep", "Film every p")
    film = gr.HTML("", elem_id="rmm-film")
    sweep.wire({**basis, **view}, draw_film, [film])


def _counted(frame: Frame) -> None:
    parts.heading(
        "Counted",
        "Eight tasks on one small vision transformer with one head: the adapter alone says which "
        "question is asked. The share of right answers, live.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            count = frame.action("count", "Count the answers")
            p = gr.Slider(0, 7, value=2, step=1, label="p", elem_id="rmm-count-p")
        with gr.Column(elem_classes="settings"):
            fields = _count_fields()
        with gr.Column(elem_classes="shown"):
            table = gr.HTML("", elem_id="rmm-count")
    curve = gr.Plot(label="Accuracy against storage", visible=False, **PLOT)
    count.wire({"p": p, **fields}, draw_count, [table, curve], params=within, turned=[p])


def _count_fields() -> dict[str, Any]:
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
    parts.heading(
        "Weighed",
        "From the factors of the adapters above, without any base model: what each way of keeping "
        "them loses at which size. Upload your own to see theirs.",
    )
    with gr.Row():
        weigh = frame.action("weigh", "Weigh the adapters")
        storage = gr.Slider(
            0, 1.5, value=0, step=0.05, label="At most this storage", info="0: no wish"
        )
        error = gr.Slider(0, 1, value=0, step=0.01, label="At most this loss", info="0: no wish")
    said = gr.HTML("", elem_id="rmm-weighed")
    curve = gr.Plot(label="Error against storage", visible=False, **PLOT)
    energy = gr.Plot(label="Energy kept", visible=False, **PLOT)
    weigh.wire({"adapters": chosen, "storage": storage, "error": error}, draw_weigh,
               [said, curve, energy])  # fmt: skip


def _reverted(
    frame: Frame,
    basis: Mapping[str, Any],
    p: gr.Slider,
    mix: Mapping[str, Any],
    view: Mapping[str, Any],
) -> gr.Dropdown:
    """Gives the choice of the adapter, to which an upload adds."""
    parts.heading(
        "Revert to one adapter",
        "It is rebuilt out of the basis, loaded into the model and run. Name a task adapter, such "
        f"as {TASKS}/digits, to see it answer instead of draw.",
    )
    with gr.Row():
        action = frame.action("revert", "Revert to it", backward=True)
        adapter = gr.Dropdown(
            [*shipped(STYLES), *shipped(TASKS)],
            value=f"{STYLES}/gold",
            allow_custom_value=True,
            label="Adapter",
        )
        prompts = gr.Textbox(
            "; ".join(PROMPTS), label="Prompts", max_length=400, info="With semicolons"
        )
    shown = gr.HTML("", elem_id="rmm-reverted")
    fields = {**basis, "adapter": adapter, "p": p, **mix, "prompts": prompts}
    rest = {name: view[name] for name in ("steps", "guidance_scale")}
    action.wire({**fields, **rest}, draw_reverted, [shown], params=of_its_set)
    return adapter


def _take_along(
    frame: Frame, basis: Mapping[str, Any], p: gr.Slider, mix: Mapping[str, Any]
) -> None:
    parts.heading(
        "Take it along",
        "A merge on your shelf can be picked in other panels and comes off bit for bit. Files are "
        "read back before you get them.",
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


def _lost(found: Any) -> str:
    """What adding the merge and subtracting it again would have lost."""
    rows = "".join(
        f"<tr><td>{escape(lost.number_format)}</td><td>{100 * lost.share:.1f} %</td>"
        f"<td>{100 * lost.patch_share:g} %</td></tr>"
        for lost in found.lost
    )
    return (
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>weights that did not come '
        "back</th><th>added, then subtracted</th><th>as a patch, undone</th></tr>"
        f"{rows}</table></div>"
    )


# ---------------------------------------------------------------------- fields


def shipped(key: str) -> list[tuple[str, str]]:
    """The shipped adapters of a set, by title; those of one start of lora_A are marked."""
    card = MODELS.get(key)
    told: Mapping[str, Any] = card.notes.get("adapters", {}) if card else {}  # type: ignore[assignment]
    return [
        (f"{name}{' (shared start)' if told[name].get('shares_init') else ''}", f"{key}/{name}")
        for name in adapter_sets().get(key, ())
    ]


def within(values: dict[str, Any]) -> dict[str, Any]:
    """A p beyond the last component is the last one."""
    most = max(len(values.get("adapters") or []) - 1, 0)
    return {**values, "p": min(int(values["p"]), most)} if most else values


def of_its_set(values: dict[str, Any]) -> dict[str, Any]:
    """A task adapter is reverted among the tasks, a style among the chosen adapters."""
    source = str(values.get("adapter") or "")
    if source.startswith(f"{TASKS}/"):
        values = {**values, "adapters": [value for _, value in shipped(TASKS)]}
    elif source.startswith((f"{STYLES}/", "upload:")) and source not in (
        values.get("adapters") or []
    ):
        values = {**values, "adapters": [*(values.get("adapters") or []), source]}
    return within(values)


def uploaded(files: Sequence[str], chosen: Sequence[str]) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Keeps what was uploaded and chooses it in place of the shipped adapters, above and below."""
    with friendly():
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
    rows = {"its own adapter": (None, ()), "merged": (None, ()), "pulled out again": (None, ())}
    return parts.sheet([name.replace("-", " ") for name in FIRST], rows)


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


def draw_run(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The sheet as it grows; at the end the storage and how far each adapter came back."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip()
    rows = {row.title: (row.pictures, row.lines) for row in found.rows}
    back = next((row.title for row in found.rows if row.kind == "rebuilt"), "")
    names = [name.replace("-", " ") for name in found.names]
    sheet = storage_bar(found.storage) + parts.sheet(names, rows, backward=back)
    if isinstance(event, Progress):
        return sheet, gr.skip()
    return sheet, _came_back(found)


def _came_back(found: Any) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{error:.4f}</td><td>{apart:.1f}</td><td>{mush:.1f}</td></tr>"
        for name, error, apart, mush in zip(
            found.names, found.errors, found.apart, found.merged_apart, strict=True
        )
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    trip = found.trip
    return (
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>adapter</th>'
        f"<th>error of its delta, p = {found.p}</th><th>picture, mean difference to its own</th>"
        f"<th>the same for the merge</th></tr>{rows}</table></div>"
        f'<p class="note">At p = {found.largest_p} the factors come back {escape(trip.exactness)}: '
        f"largest error {trip.relative_error:.0e} of the largest factor. The adapters hold "
        f"{found.megabytes:.1f} MB as fp16.</p>{notes}"
    )


def draw_film(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """One card an adapter with a frame for each p, and the storage as a film of its own."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None or found.frames is None:
        return (gr.skip(),)
    last = found.frames.shape[1] - 1
    shots = [
        parts.Shot(
            name.replace("-", " "),
            found.frames[i, last],
            f"{found.prompt}, adapter {name}, p = {last}",
            (found.verdicts[last][i],),
            frames=found.frames[i],
            backward=True,
        )
        for i, name in enumerate(found.names)
    ]
    bars = np.stack([bar_frame(storage) for storage in found.storages[: last + 1]])
    told = " · ".join(
        f"p = {p}: {s:.0%}".replace("%", " %") for p, s in enumerate(found.storages[: last + 1])
    )
    shots.append(parts.Shot("storage", bars[-1], f"storage by p: {told}", (told,), frames=bars))
    return (parts.shots(shots, scrub=True, ends=("p = 0, the average", f"p = {last}")),)


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


def draw_count(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Accuracy per task as it is counted, and the curve against storage."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None or found.own is None:
        return gr.skip(), gr.skip()
    table = _count_table(found)
    if not found.rebuilt:
        return table, gr.skip()
    return table, gr.Plot(value=_count_plot(found), visible=True)


def _count_table(found: Any) -> str:
    at_p = next((s for s in found.rebuilt if s.budget == found.p), None)
    best = max(found.merged, key=lambda s: s.mean, default=None)
    columns = [("base alone", found.base, "muted"), ("its own adapter", found.own, "forward")]
    if best is not None:
        columns.append((f"merged: {title_of(best.way)}", best, "s3"))
    if at_p is not None:
        columns.append((f"rebuilt, p = {found.p}", at_p, "backward"))
    head = "".join(f"<th>{escape(title)}</th>" for title, _, _ in columns)
    rows = "".join(
        f"<tr><td>{escape(task)}<br><span class='note'>{escape(question)}</span></td>"
        + "".join(f"<td>{_bar(score.right[i], tone)}</td>" for _, score, tone in columns)
        + "</tr>"
        for i, (task, question) in enumerate(zip(found.tasks, found.questions, strict=True))
    )
    mean = "".join(f"<td><b>{100 * score.mean:.1f} %</b></td>" for _, score, _ in columns)
    bar = storage_bar(at_p.storage) if at_p is not None else ""
    said = f"{found.pictures} pictures a task, none of them trained on."
    if best is not None:
        said += " Of the merges counted, the best one is shown."
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in (said, *found.notes))
    return (
        f'{bar}<div class="scroll" tabindex="0"><table class="plain"><tr><th>task</th>{head}</tr>'
        f"{rows}<tr><td><b>mean</b></td>{mean}</tr></table></div>{notes}"
    )


def _bar(share: float, tone: str) -> str:
    return (
        '<span style="display:block;min-width:64px;background:var(--well)"><i style="display:block;'
        f'height:6px;width:{100 * share:.0f}%;background:var(--{tone})"></i></span>'
        f"{100 * share:.0f} %"
    )


def title_of(way: str) -> str:
    """The title of a merge or of a way to rebuild."""
    return next((title for title, name in MERGES.items() if name == way), WAYS.get(way, way))


def _count_plot(found: Any) -> object:
    """Mean accuracy against storage: RMM, its rivals, and the merges as single points."""
    lines = [_score_line(WAYS.get(found.rebuilt[0].way, "RMM"), found.rebuilt, 0, backward=True)]
    ways = list(dict.fromkeys(score.way for score in found.rivals))
    for place, way in enumerate(ways):
        scores = [score for score in found.rivals if score.way == way]
        lines.append(_score_line(WAYS.get(way, way), scores, place))
    for place, score in enumerate(found.merged):
        lines.append(_score_line(title_of(score.way), [score], place + len(ways)))
    span = [0.0, 100 * max(score.storage for score in found.rebuilt)]
    for name, score in (("own adapters", found.own), ("base alone", found.base)):
        level = [100 * score.mean] * 2
        lines.append(parts.Line(name, span, level, neutral=True, marks=False))
    lines.append(parts.Line("100 % storage", [100, 100], [0, 100], neutral=True, marks=False))
    return parts.plot(lines, "storage, % of the adapters", "right answers, %", height=420)


def _score_line(name: str, scores: Sequence[Any], place: int, backward: bool = False) -> parts.Line:
    ordered = sorted(scores, key=lambda score: score.storage)
    return parts.Line(
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


def draw_weigh(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The cosine map and both curves."""
    if isinstance(event, Progress):
        return gr.skip(), gr.skip(), gr.skip()
    found = event.result
    survey = found.survey
    lines = []
    for place, (way, title) in enumerate(WAYS.items()):
        points = [p for p in survey.curve(way) if p.error > 0]
        if points:
            lines.append(
                parts.Line(
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
    curve = parts.plot(
        lines, "storage, % of the adapters", "relative squared error of the deltas", log_y=True
    )
    energy = parts.plot(
        [
            parts.Line(
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
        _weighed_table(found),
        gr.Plot(value=curve, visible=True),
        gr.Plot(value=energy, visible=True),
    )


def _above(line: parts.Line, floor: float) -> parts.Line:
    """The line without points that are only round-off."""
    kept = [i for i, y in enumerate(line.y) if y > floor]
    return parts.Line(
        line.name,
        [line.x[i] for i in kept],
        [line.y[i] for i in kept],
        line.place,
        backward=line.backward,
        hover=[line.hover[i] for i in kept],
    )


def _weighed_table(found: Any) -> str:
    survey = found.survey
    heat = parts.shots(
        [
            parts.Shot(
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
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{norm:.3g}</td>"
        + "".join(f"<td>{_error(e)}</td>" for e in survey.errors[:, i])
        + "</tr>"
        for i, (name, norm) in enumerate(zip(survey.names, survey.norms, strict=True))
    )
    head = "".join(f"<th>p = {p}</th>" for p in range(len(survey.errors)))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    said = f"p = {found.chosen} takes {100 * found.chosen_storage:.0f} % of the adapters' size"
    return (
        f'<div class="beside">{heat}<div>{storage_bar(found.chosen_storage, said)}'
        '<p class="note">Relative squared error of each rebuilt delta.</p>'
        f'<div class="scroll" tabindex="0"><table class="plain"><tr><th>adapter</th><th>norm</th>'
        f"{head}</tr>{rows}</table></div>{notes}</div></div>"
    )


def _largest_off(cosine: np.ndarray) -> float:
    off = cosine - np.diag(np.diag(cosine))
    return float(off.flat[int(np.abs(off).argmax())]) if off.size > 1 else 0.0


def _error(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def draw_reverted(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Base, own, merged, reverted: what each draws or answers."""
    if isinstance(event, Progress):
        return (gr.skip(),)
    found = event.result
    back = next(row.title for row in found.rows if row.kind == "rebuilt")
    rows = {row.title: (row.pictures, row.lines) for row in found.rows}
    question = f"{found.question} Above the pictures the right answer. " if found.question else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    said = f'<p class="note">{escape(question)}Error of the rebuilt delta: {found.error:.4f}.</p>'
    return (parts.sheet(found.columns, rows, backward=back) + said + notes,)
