"""The questions that `fastlabel bench` answers. Light: nothing is imported until a question is asked.

To plug a question in: a module `benchmarks/NAME.py` with `answer(setup: Setup) -> Answer` (see question.py), one line
here, and one line in tests/benchmarks/test_bench.py.
"""

from __future__ import annotations

QUESTIONS = {  # name, which is also the module's: what it measures
    "loss": "Time and memory of the loss against stored labels; peers: dense targets, torch.compile, FKD's way.",
    "loader": "Crops a second of JPEGs: our views at 1, 2, 4, 8 per decode; peers: FFCV, torchvision's DataLoader.",
}
