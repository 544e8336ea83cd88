"""Taking a concept out of a text-to-image model."""
