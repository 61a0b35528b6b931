"""What a use of labels may name. Without torch, so that the command line lists it at once."""

LOSSES = ("soft-ce", "kl", "mse-logits", "gift", "dist")
TAILS = ("uniform", "renormalise", "zero")
PHASES = ("soft", "hard")
