"""The questions that `fastlabel bench` answers. Light: nothing is imported until a question is asked.

To plug a question in: a module `benchmarks/NAME.py` with `answer(setup: Setup) -> Answer` (see question.py), one line
here, and one line in tests/benchmarks/test_bench.py.
"""

from __future__ import annotations

QUESTIONS = {  # name, which is also the module's: what it measures
    "labels": "Labels fetched and decoded a second; peers: FKD's file per image, TinyViT's records, dense fp16.",
    "loss": "Time and memory of the loss against stored labels; peers: dense targets, torch.compile, FKD's way.",
    "loader": "Crops a second of JPEGs: our views at 1, 2, 4, 8 per decode; peers: FFCV, torchvision's DataLoader.",
    "cache": "Crops labelled a second, next to decoding and teacher alone; peer: FKD's file per image.",
    "student": "Images a second in training: hard labels, cached labels, the teacher online.",
    "storage": "Bytes of a label and what it keeps of the teacher; peers: FKD, TinyViT, dense fp16.",
}
