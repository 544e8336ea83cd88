"""A tree like `engine`, with one method that keeps every promise and one package that is broken."""
