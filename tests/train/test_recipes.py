from __future__ import annotations

import math

import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.train.recipes import Recipe, load_optimizer, set_lr


def rates(steps_per_epoch=10, **options):
    recipe = Recipe(**{"epochs": 4, "lr": 1.0, **options})
    return [recipe.lr_at(step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_cosine_falls_from_the_peak_to_nearly_zero():
    values = rates()
    assert values[0] == 1
    assert values[20] == pytest.approx(0.5)
    assert 0 < values[-1] < 0.01
    assert values == sorted(values, reverse=True)


def test_cosine_equals_that_of_torch():
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for value in rates():
        assert value == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_half_a_cosine_ends_at_half_the_rate():
    """As RDED's code: (1 + cos(pi epoch / epochs / 2)) / 2."""
    values = rates(schedule="half-cosine", steps_per_epoch=1, epochs=300)
    assert values == pytest.approx([0.5 * (1 + math.cos(math.pi * e / 300 / 2)) for e in range(300)])
    assert values[0] == 1 and 0.5 < values[-1] < 0.503


def test_step_falls_by_its_factor_at_each_quarter():
    values = rates(schedule="step")
    assert values[::10] == pytest.approx([1, 0.3, 0.09, 0.027])
    assert values[9] == 1
    assert rates(schedule="step", step_factor=0.1, step_fraction=0.5)[::20] == pytest.approx([1, 0.1])


def test_constant_with_warmup():
    values = rates(schedule="constant", warmup=1)
    assert values[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert set(values[10:]) == {1}


def test_onecycle_rises_and_falls():
    values = rates(schedule="onecycle", steps_per_epoch=25)
    assert values[0] == pytest.approx(1 / 25)
    assert max(values) == values[30] == 1
    assert values[-1] == pytest.approx(1e-4, abs=1e-3)


def test_warmup_of_part_of_an_epoch():
    assert rates(warmup=0.25, steps_per_epoch=8)[:3] == pytest.approx([0.5, 1, 1])


def test_optimizers():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    sgd = Recipe(epochs=1).make_optimizer(parameters)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    assert sgd.defaults["weight_decay"] == 5e-4
    adamw = Recipe(epochs=1, optimizer="adamw").make_optimizer(parameters)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["lr"] == 0.001
    set_lr(adamw, 0.5)
    assert adamw.param_groups[0]["lr"] == 0.5


def test_round_trip():
    recipe = Recipe(epochs=3, optimizer="adamw", schedule="step", warmup=1)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    averaged = Recipe(epochs=3, ema=0.99)
    assert Recipe.from_dict(averaged.to_dict()) == averaged
    assert "ema" not in recipe.to_dict()  # runs of before have none, and go on


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"momentum": 1},
        {"weight_decay": -1},
        {"warmup": 4},
        {"optimizer": "adam"},
        {"schedule": "linear"},
        {"label_smoothing": 1},
        {"ema": 1},
        {"ema": -0.1},
        {"schedule": "onecycle", "warmup": 1},
    ],
)
def test_values_that_cannot_be_used_are_named(change):
    with pytest.raises(InputError, match=next(iter(change))):
        Recipe(**{"epochs": 4, **change})


def test_bfloat16_is_the_default_of_cuda_alone():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [Recipe(1).on(device).amp for device in (cpu, cuda)] == [False, True]
    for amp in (False, True):
        assert [Recipe(1, amp=amp).on(device).amp for device in (cpu, cuda)] == [amp, amp]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_of_another_kind_of_device_keeps_how_this_one_steps(name):
    """A run of a GPU, whose optimizer is fused, goes on where it is not."""
    parameter = torch.nn.Parameter(torch.ones(3))
    recipe = Recipe(1, optimizer=name)
    theirs, ours = recipe.make_optimizer([parameter]), recipe.make_optimizer([parameter])
    theirs.param_groups[0]["fused"] = True
    parameter.sum().backward()
    theirs.step()
    load_optimizer(ours, theirs.state_dict())
    assert ours.param_groups[0]["fused"] is None and theirs.param_groups[0]["fused"] is True
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys() != set()
    ours.step()
