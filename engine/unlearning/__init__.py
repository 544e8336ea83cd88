"""Training data is taken out of a model: by an edit of its weights, without training it again.

All methods here are one sentence: given a model, a set to forget, a set to keep and a loss,
compute an edit, apply it as a patch that can be taken back bit for bit, and fill one evaluation
card. The shared objects are `_task` (what to forget, with which loss), `_importance` (which weights
matter to it), the core's `Patch`, and `_card` (what came of it).
"""

ORDER = (
    "ssd", "corrective", "restor", "ununlearning", "refresh_learning", "smoothinv",
    "forgetting_lab",
)  # fmt: skip
