"""Jobs that take every field of a settings dataclass as a setting of their own."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

from engine.core.job import Steps


def taking(kind: Any) -> Callable[[Callable[..., Steps]], Callable[..., Steps]]:
    """A decorator: the job's `settings` are spread out, and checked by `kind.of` as it starts."""

    def spread(job: Callable[..., Steps]) -> Callable[..., Steps]:
        own = {n: p for n, p in inspect.signature(job).parameters.items() if n != "settings"}
        types = get_type_hints(kind, include_extras=True)
        ours = {
            field.name: inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )
            for field in fields(kind)
        }

        @functools.wraps(job)
        def start(**values: object) -> Steps:
            rest = {name: value for name, value in values.items() if name not in ours}
            chosen = {name: value for name, value in values.items() if name in ours}
            return job(settings=kind.of(**chosen), **rest)

        start.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*own.values(), *ours.values()]
        )
        start.__annotations__ = {**job.__annotations__, **types}
        start.__annotations__.pop("settings")
        return start

    return spread
