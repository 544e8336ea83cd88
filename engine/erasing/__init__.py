"""Taking a concept out of a text-to-image model."""

# The order in which a course would take them.
ORDER = ("rece", "spm", "few_shot_erasing", "reversion", "erasure_lab")
