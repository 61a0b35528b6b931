"""The average of a run's weights: what it is, what is kept of it, and that a resumed run has the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastlabel import SoftLabelLoss
from fastlabel.models.weights import read_checkpoint
from fastlabel.train import interruptions
from fastlabel.train.objectives import cached_use
from fastlabel.train.recipes import Recipe
from fastlabel.train.weight_average import WeightAverage

from .conftest import MemoryLoader
from .test_resume import Crash, Crashing, content, plain


def small_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))


def test_an_average_is_its_recursion():
    network = small_network()
    network(torch.randn(2, 3, 5, 5))
    average = WeightAverage(network, network, decay=0.75)
    assert average.trunk is average.model
    expected = {name: value.double() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        network(torch.randn(6, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        average.update()
        for name, value in network.state_dict().items():
            kept = 0.75 * expected[name] + 0.25 * value.double()
            expected[name] = kept if value.is_floating_point() else value.double()
    found = average.model.state_dict()
    assert found["1.num_batches_tracked"] == 5
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["0.weight"], network.state_dict()["0.weight"])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in average.model.parameters())


def test_a_trunk_stays_a_part_of_its_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = WeightAverage(model, model[1], decay=0.5)
    assert average.trunk is average.model[1] and average.trunk is not model[1]


def test_what_is_tested_and_kept_is_the_average(tmp_path, make_trainer):
    """The same training: weights to go on from are those of the run without an average."""
    bare = make_trainer(tmp_path / "bare")
    bare.fit()
    made = make_trainer(tmp_path / "average", recipe=Recipe(epochs=3, batch_size=16, lr=0.05, ema=0.5))
    history = made.fit()
    last, kept = (read_checkpoint(tmp_path / "average" / name) for name in ("last.pt", "epoch-003.pt"))
    assert plain(last["trained"]) == plain(read_checkpoint(tmp_path / "bare" / "last.pt")["state"])
    assert plain(last["state"]) == plain(kept["state"]) != plain(last["trained"])
    model = made.model
    model.load_state_dict(kept["state"])
    assert made.evaluate(model, lambda: None)["val_loss"] == history[-1]["val_loss"]


@pytest.mark.slow
def test_every_step_can_be_the_last_before_a_crash(tmp_path, make_trainer, monkeypatch):
    """With an average, a temperature for each epoch, a hard phase, and random numbers in the network."""
    monkeypatch.setattr(interruptions, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(interruptions, "SHARE_OF_SAVES", 1e9)
    use = SoftLabelLoss("kl", "step:8,0.5,1,1", 2.0, keep=2, phases="soft:1,hard:1,soft:1", epochs=3)

    def trainer(folder, **options):
        recipe = Recipe(epochs=3, batch_size=16, lr=0.02, schedule="half-cosine", ema=0.8)
        made = make_trainer(folder, recipe=recipe, loss=cached_use(use), **options)
        for model in (made.model, made._average.model):
            model.net.features.append(nn.Dropout(0.5))
        return made

    trainer(tmp_path / "whole").fit()
    wanted = content(tmp_path / "whole")
    for steps in (1, 3, 4, 8):
        with pytest.raises(Crash):
            trainer(tmp_path / str(steps), loader=Crashing(steps)).fit()
        trainer(tmp_path / str(steps), loader=MemoryLoader()).fit(resume=True)
        assert content(tmp_path / str(steps)) == wanted
