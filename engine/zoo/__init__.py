"""How each shipped checkpoint is made."""
