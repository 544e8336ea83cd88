"""Going back over what a language model said: a phrase, or a chain of reasoning."""
