"""What a use of labels may name. Without torch, so that the command line lists it at once."""

LOSSES = ("soft-ce", "kl", "mse-logits", "gift", "dist")
TAILS = ("uniform", "renormalise", "zero")
PHASES = ("soft", "hard")
# What says how labels are used, and what it is where nothing is said.
USES: dict[str, str | float | int | bool | None] = {
    "loss": "soft-ce",
    "label_temperature": 1.0,
    "student_temperature": 1.0,
    "temperature_squared": False,
    "keep": None,
    "tail": "uniform",
    "hard_weight": 0.0,
    "phases": None,
}
