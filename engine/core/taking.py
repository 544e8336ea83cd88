"""Jobs that take every field of a settings dataclass as a setting of their own.

    @taking(question=Question, gradients=Gradients)
    def run(*, seed: int, question: Question, gradients: Gradients, curve: Curve = 9) -> Steps: ...

    run(seed=0, what="bag", unit="sample", curve=3)

What several jobs take is declared once, as the fields of a dataclass, and stands in the signature
of each job; a job gets it checked and in one piece.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

from engine.core.job import Steps
from engine.core.settings import checked


def taking(**kinds: Any) -> Callable[[Callable[..., Steps]], Callable[..., Steps]]:
    """A decorator: fields of the dataclasses, by the name of the argument that gets them, are
    settings of the job.

    They are checked as the job starts: by the dataclass's own `of` where it has one, else by what
    its fields declare.
    """

    def spread(job: Callable[..., Steps]) -> Callable[..., Steps]:
        own = {n: p for n, p in inspect.signature(job).parameters.items() if n not in kinds}
        ours = {name: _parameters(kind) for name, kind in kinds.items()}
        taken = {field: one for fields in ours.values() for field, one in fields.items()}

        @functools.wraps(job)
        def start(**values: object) -> Steps:
            rest = {name: value for name, value in values.items() if name not in taken}
            for name, kind in kinds.items():
                chosen = {field: values[field] for field in ours[name] if field in values}
                rest[name] = _made(kind, chosen)
            return job(**rest)

        start.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*own.values(), *taken.values()]
        )
        types = {name: one.annotation for name, one in taken.items()}
        start.__annotations__ = {
            name: kind for name, kind in job.__annotations__.items() if name not in kinds
        } | types
        return start

    return spread


def _parameters(kind: Any) -> dict[str, inspect.Parameter]:
    types = get_type_hints(kind, include_extras=True)
    return {
        one.name: inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=types[one.name],
        )
        for one in fields(kind)
    }


def _made(kind: Any, chosen: dict[str, object]) -> object:
    make = getattr(kind, "of", None)
    return make(**chosen) if make else kind(**checked(kind, chosen))
