"""What a recipe may name. Apart from `recipes`, so that the command line lists it without loading torch."""

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "half-cosine", "step", "constant", "onecycle")
DEFAULT_LEARNING_RATES = {"sgd": 0.05, "adamw": 0.001}
