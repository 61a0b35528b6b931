"""Labels as rows of logits over all classes, for files that hold nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.labels.topk import TopKLabels, check_temperature

RANK_STEP = 1e-5  # nats


def logits_of(labels: TopKLabels, temperature: float = 1.0) -> Tensor:
    """float32 [B, C], whose softmax at `temperature` is the label at it; the greatest of each row is 0.

    The classes that a label does not list get equal logits: at another temperature that is a flatter tail than the
    store's, whose labels know the mean of these logits.
    """
    check_temperature("temperature", temperature)
    log_probs = labels.dense(temperature).double().log() * temperature
    # Equal codes: apart by what is far below a code, so that the order of the classes is kept.
    ranks = torch.arange(labels.k, dtype=torch.float64) * (RANK_STEP * min(1.0, 1000 / labels.k))
    log_probs.scatter_add_(1, labels.classes.to(torch.int64), -ranks.expand(len(labels), -1))
    return (log_probs - log_probs.amax(dim=1, keepdim=True)).to(torch.float32)
