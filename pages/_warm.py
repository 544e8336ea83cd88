"""The warm start: what the first visitor would have to wait for, done once the page is served."""

import logging
import sys

from engine.core.job import Failed, Job
from engine.runners import Runner

log = logging.getLogger(__name__)

# Imports hold the interpreter for a whole interval at a time, and answering a click needs it often.
SHORT_INTERVAL = 0.0005


def warm_up(run: Runner) -> None:
    """Imports the libraries and loads the shipped model, in turns with the jobs of visitors."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SHORT_INTERVAL)
    try:
        for event in run(Job("engine.models.warm:run", {"models": ["world"]})):
            if isinstance(event, Failed):
                log.warning("warming up failed: %s %s", event.message, event.detail)
    finally:
        sys.setswitchinterval(usual)
