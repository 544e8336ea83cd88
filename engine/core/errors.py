"""What can go wrong, as one small tree.

    EngineError
    ├── BadInput            the visitor can mend it
    │   └── SamplerError    a sampler was asked for steps it cannot take
    ├── ModelMismatch       the model is of the wrong kind, size or number format
    ├── PatchConflict       an edit is there already, is not there, or lies under another one
    ├── AssetMissing        a file, checkpoint or store cannot be read or written
    └── OutOfBudget         too much time, memory or disk would be needed

`message` says what was wrong with what was given; `advice` says what to try. Panels show the two.
Any other exception is a bug and is shown as one.
"""


class EngineError(Exception):
    """An expected failure: one sentence about what was wrong, one about what to try."""

    def __init__(self, message: str, advice: str = "") -> None:
        # Both go to the base class, so that the error pickles between processes.
        super().__init__(message, advice)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class BadInput(EngineError):
    """A value given by the visitor cannot be used."""


class SamplerError(BadInput):
    """A sampler was asked for something it cannot do."""


class ModelMismatch(EngineError):
    """The model does not fit the method or the patch."""


class PatchConflict(EngineError):
    """An edit cannot be applied or undone where the model stands now."""


class AssetMissing(EngineError):
    """A file or checkpoint is absent, damaged, or cannot be written."""


class OutOfBudget(EngineError):
    """The request needs more time, memory or disk than is allowed."""
