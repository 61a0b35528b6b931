from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastlabel.errors import InputError
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.train import evaluate
from fastlabel.train.evaluate import Evaluator

from .conftest import MemoryLoader

SPEC = ModelSpec("convnet-d1-w8", num_classes=7, size=8)


def test_metrics_are_those_of_all_images_at_once():
    loader = MemoryLoader(count=41, batch_size=16, classes=7)
    model = Classifier(SPEC)
    metrics = Evaluator(loader)(model)
    with torch.no_grad():
        logits = model.eval()(loader.images)
    top = logits.argsort(dim=1, descending=True)
    assert metrics["val_loss"] == pytest.approx(F.cross_entropy(logits, loader.targets).item(), rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx((top[:, 0] == loader.targets).double().mean().item())
    hits = (top[:, :5] == loader.targets[:, None]).any(dim=1)
    assert metrics["val_top5"] == pytest.approx(hits.double().mean().item())


def test_images_are_decoded_once_when_they_fit(monkeypatch):
    loader = MemoryLoader(classes=7)
    model = Classifier(SPEC).train()
    evaluator = Evaluator(loader)
    assert evaluator(model) == evaluator(model)
    assert len(loader.epochs_served) == 1
    assert model.training
    monkeypatch.setattr(evaluate, "CACHE_LIMIT_BYTES", 1000)
    again = Evaluator(loader)
    assert again(model) == again(model) == pytest.approx(evaluator(model))
    assert len(loader.epochs_served) == 3


def test_no_images_is_an_error():
    with pytest.raises(InputError, match="no images"):
        Evaluator([])(Classifier(SPEC))


def test_amp_evaluates_in_the_precision_of_training():
    loader, model, dtypes = MemoryLoader(classes=7), Classifier(SPEC), []
    model.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    exact, rough = (Evaluator(loader, amp=amp)(model) for amp in (False, True))
    assert set(dtypes[:3]) == {torch.float32} and set(dtypes[3:]) == {torch.bfloat16}
    assert rough != exact and rough["val_loss"] == pytest.approx(exact["val_loss"], rel=0.02)
