"""Finding, checking, loading and editing models."""
