"""Un-compute: networks whose forward pass runs backwards, so that training forgets activations.

All methods list their couplings for the one sequence of `engine.reversible`.
"""

ORDER = ("memory_lab", "meft", "revcol", "reversible_unet3d", "augundo", "neural_de")
