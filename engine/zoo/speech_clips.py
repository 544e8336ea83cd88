"""The example recordings that ship: sentences of the two held-out speakers, music, babble.

python -m engine.zoo build speech-clips
"""

import json
import logging
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engine.core.catalog import ROOT
from engine.zoo import voices
from engine.zoo.training import Options

log = logging.getLogger(__name__)

FOLDER = ROOT / "assets" / "data" / "speech"
SPEAKERS = {"it": ("it_IT_m_Carlo", "Italian, man"), "ru": ("ru_RU_f_IvrvoiceRU", "Russian, woman")}
SENTENCES = {
    "it": {
        "tt-weasels": "Weasels have eaten our phone system",
        "check-number-dial-again": "Please check the number and dial again",
        "pls-hold-while-try": "Please hold while I try that extension",
        "please-try-call-later": "Please try your call again later",
        "conf-onlyperson": "You are the only person in this conference",
        "vm-sorry": "I am sorry, I did not understand your response",
        "vm-msgforwarded": "Your message has been forwarded",
        "at-tone-time-exactly": "At the tone the time will be exactly",
        "conf-getpin": "Please enter the pin of the conference",
        "feature-not-avail-line": "This feature is not available on this line",
    },
    "ru": {
        "tt-weasels": "Weasels have eaten our phone system",
        "all-circuits-busy-now": "All circuits are busy now",
        "cannot-complete-as-dialed": "Your call cannot be completed as dialed",
        "conf-onlyperson": "You are the only person in this conference",
        "vm-nobodyavail": "Nobody is available to take your call",
        "vm-sorry": "I am sorry, I did not understand your response",
        "vm-msgforwarded": "Your message has been forwarded",
        "at-tone-time-exactly": "At the tone the time will be exactly",
        "conf-kicked": "You have been kicked from this conference",
        "feature-not-avail-line": "This feature is not available on this line",
    },
}
MUSIC_SECONDS, BABBLE_SECONDS = 2.5, 4.5


def build(folder: Path, options: Options) -> None:
    """Fetch the recordings and write the chosen ones."""
    fetched = voices.fetch(folder / "voices")
    samples, listed, others = {}, [], []
    for language, (speaker, name) in SPEAKERS.items():
        every = voices.recordings(fetched, speaker)
        for key, text in SENTENCES[language].items():
            samples[f"{language}-{key}"] = voices.trimmed(every.pop(key))
            listed.append({"key": f"{language}-{key}", "speaker": name, "text": text})
        others.append([voices.trimmed(every[name]) for name in sorted(every) if "/" not in name])
    count = int(BABBLE_SECONDS * voices.SAMPLE_RATE) // 2
    samples["babble"] = np.concatenate([np.concatenate(clips[:20])[:count] for clips in others])
    count = int(MUSIC_SECONDS * voices.SAMPLE_RATE)
    pieces = [voices.piece(fetched, name) for name in voices.HELD_OUT_MUSIC]
    begin = 20 * voices.SAMPLE_RATE
    samples["music"] = np.concatenate([piece[begin : begin + count] for piece in pieces])
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(samples, FOLDER / "clips.safetensors")
    (FOLDER / "clips.json").write_text(json.dumps({"clips": listed}, indent=1) + "\n")
    log.info("%.0f kB", (FOLDER / "clips.safetensors").stat().st_size / 1e3)


BUILDS = {"speech-clips": build}
