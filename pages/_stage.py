"""A stage: one job of a panel with its button, its picture and its number in one screen.

Wide windows show question, button, number and settings on the left and the picture on the right.
On a phone the picture stands first, and the button with the number stays at the lower edge of the
window; theme.css places both, so that no page has a layout of its own.
"""

import gradio as gr

from pages._actions import Action, Panel


class Stage(Action):
    """An action with its places. A page fills the columns that it needs:

    `ask` is the question, one or two fields; `settings` what else can be set; `shown` the picture
    of the result, what was there before and after beside one another; `below`, as wide as the
    panel, what one reads afterwards: curves, tables.
    """

    def __init__(
        self, frame: Panel, name: str, label: str, backward: bool, *, records: bool = True
    ) -> None:
        self.records = records
        with gr.Row(elem_classes="bench"):
            self.ask = gr.Column(elem_classes="ask")
            with gr.Column(elem_classes="go"):
                super().__init__(frame, name, label, backward)
                self.number = gr.HTML("", elem_id=f"{frame.entry.slug}-{name}-number")
                self.number.elem_classes = ["number"]
            self.settings = gr.Column(elem_classes="settings")
            self.shown = gr.Column(elem_classes="shown")
        self.below = gr.Column(elem_classes="below")
