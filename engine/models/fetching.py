"""What a job needs from the Hub, brought here before the job begins.

Runners do this first: waiting for a network computes nothing, so it takes no turn and no GPU, shows
its bytes, and stops when the visitor stops the job.
"""

import re
from collections.abc import Mapping

from engine.core.job import Steps
from engine.core.recipe import ModelRef
from engine.models import library


def run(*, seed: int, params: Mapping[str, object]) -> Steps[None]:
    """Fetches the models and adapters that the parameters of a job name; most name none.

    A full fine-tune is named by two files, "after minus before rank 16". The seed is not used.
    """
    for value in params.values():
        if isinstance(value, ModelRef):
            yield from library.fetch(value)
    adapters = params.get("adapters")
    for source in adapters if isinstance(adapters, list | tuple) else ():
        for part in re.split(" minus | rank ", str(source)[:1000]):
            yield from library.fetch_adapter(part.strip())
