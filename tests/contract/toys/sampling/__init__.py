"""The family of the toy methods."""
