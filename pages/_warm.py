"""The warm start: what the first visitor would have to wait for, done once the page is served."""

import sys

from engine import runners
from engine.runners import Runner

# Imports hold the interpreter for a whole interval at a time, and answering a click needs it often.
SHORT_INTERVAL = 0.0005


def warm_up(run: Runner) -> None:
    """Imports the libraries and loads the shipped model, in turns with the jobs of visitors."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SHORT_INTERVAL)
    try:
        runners.warm_up(run)
    finally:
        sys.setswitchinterval(usual)
