"""What golden cases of samplers share; it stands in `engine.core.golden`."""

from engine.core.golden import Arrays, Case, Golden, arrays_of

__all__ = ["Arrays", "Case", "Golden", "arrays_of"]
