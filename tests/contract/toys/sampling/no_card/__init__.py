"""A package without a card: the catalogue keeps it as broken."""
