"""What the server keeps of one visitor: the values of states, and choices that differ.

Gradio also describes every component anew for each session and keeps all that was sent and shown:
3 MB and 0.3 s of CPU for a visitor who has done nothing yet. It needs them for deep links alone,
where a page is opened as another one stood; our links hold a recipe instead. `use()` puts these
sessions in the place of Gradio's, which has no setting for it.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import state_holder
from gradio.state_holder import SessionState


class Session(SessionState):
    """A session that describes nothing."""

    def __init__(self, blocks: gr.Blocks) -> None:
        nothing_to_describe: dict[int, object] = {}
        super().__init__(
            SimpleNamespace(default_config=blocks.default_config, blocks=nothing_to_describe)
        )

    def _update_config(self, key: int) -> None:
        """What changed on a component is not described."""

    def _update_value_in_config(self, key: int, value: object) -> None:
        """What was sent or shown is not kept."""

    @property
    def components(self) -> Iterator[dict[str, Any]]:
        """A deep link opens the page as it was built."""
        yield from ()


def use() -> None:
    """From now on sessions are these."""
    state_holder.SessionState = Session
