"""The look of the house: its colours and marks, Gradio's theme, style sheet and script."""

import hashlib
from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).resolve().parents[1] / "assets"

# One colour for what runs forward, one for what runs backward; then three more for further lines.
# All five keep a contrast of 3 against the light and the dark page. Blue stays the colour of
# rewinding alone. Each line also has its own mark, so that colour is never the only sign.
FORWARD, BACKWARD = "#d06a1b", "#5b7fea"
SERIES = (FORWARD, "#4f8f68", "#b5568a", "#8a7a2a")
NEUTRAL = "#85807a"
MARKS = ("●", "■", "▲", "◆")
SYMBOLS = ("circle", "square", "triangle-up", "diamond")


def theme() -> gr.themes.Base:
    """The look of Gradio's own parts; theme.css does the rest."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_sm,
        font=("Plex", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", (400,)), "ui-monospace", "monospace"),
    )


def head() -> str:
    """Lines for the head of every page: style sheet and script as files, so that pages stay light.

    The digests make browsers fetch a new version at once.
    """
    version = {
        name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:8]
        for name in ("theme.css", "rewind.js")
    }
    return (
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="stylesheet" href="gradio_api/file=assets/theme.css?{version["theme.css"]}">'
        f'<script defer src="gradio_api/file=assets/rewind.js?{version["rewind.js"]}"></script>'
    )
