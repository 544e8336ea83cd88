"""Methods that go back over what was said: a hallucinated phrase, or a chain of reasoning."""
