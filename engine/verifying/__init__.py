"""Going back over what a language model said: a phrase, or a chain of reasoning."""

# The order in which a course would take them.
ORDER = ("retrospective_resampling", "revthink")
