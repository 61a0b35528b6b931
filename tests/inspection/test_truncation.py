"""The estimated loss by truncation, against the exact one of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fastlabel.inspection.truncation import information_kept, tail_kl, truncation_kl
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels

ROUNDING = 6e-4  # nats that rounding to codes of 1/8 nat adds to a KL


def exact_kl(logits_BC: Tensor, labels: TopKLabels) -> np.ndarray:
    """KL(teacher || label) of each row, from the logits themselves."""
    probs = torch.softmax(logits_BC.double(), 1)
    return (torch.xlogy(probs, probs) - torch.xlogy(probs, labels.dense().double())).sum(1).numpy()


def gaussian(rows: int, classes: int, scale: float) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [200, 1000])
@pytest.mark.parametrize("k", [4, 16, 64])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
def test_gaussian_logits(classes: int, k: int, scale: float) -> None:
    """The model itself: right to 5 %, though nothing but two tail values and the last kept gap are stored."""
    logits = gaussian(1000, classes, scale)
    labels = TopKCodec(k, classes).encode(logits)
    exact, estimate = exact_kl(logits, labels).mean(), truncation_kl(labels).mean()
    assert estimate == pytest.approx(exact, rel=0.05, abs=ROUNDING)


@pytest.mark.parametrize(("name", "error"), [("student-t", 0.10), ("laplace", 0.15), ("gumbel", 0.2), ("groups", 0.05)])
def test_other_logits(name: str, error: float) -> None:
    """Tails that are not Gaussian: heavier ones, and classes in groups."""
    torch.manual_seed(0)
    logits = {
        "student-t": 2 * torch.distributions.StudentT(5.0).sample((2000, 1000)),
        "laplace": torch.distributions.Laplace(0.0, 1.5).sample((2000, 1000)),
        "gumbel": torch.distributions.Gumbel(0.0, 1.5).sample((2000, 1000)),
        "groups": 2 * torch.randn(2000, 1000) + 3 * torch.randn(2000, 50).repeat_interleave(20, 1),
    }[name]
    labels = TopKCodec(16, 1000).encode(logits)
    exact = exact_kl(logits, labels)
    known = np.isfinite(exact)  # a class below float32 has an infinite share of nothing
    assert truncation_kl(labels)[known].mean() == pytest.approx(exact[known].mean(), rel=error)


@pytest.fixture(scope="module")
def digit_logits() -> Tensor:
    """Logits [797, 10] of a small network for the digits that it was not trained on."""
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels).float() / 16, torch.from_numpy(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(60):
            loss = nn.functional.cross_entropy(net(images[:1000]), labels[:1000])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        logits = net(images[1000:])
    assert (logits.argmax(1) == labels[1000:]).float().mean() > 0.8
    return logits


@pytest.mark.parametrize("k, error", [(1, 0.3), (2, 0.1), (3, 0.1), (5, 0.1)])
def test_a_trained_network(digit_logits: Tensor, k: int, error: float) -> None:
    """At K = 1 the bound is the top logit itself, far above the tail of a network that is sure."""
    labels = TopKCodec(k, 10).encode(digit_logits / 2)
    exact = exact_kl(digit_logits / 2, labels).mean()
    assert exact > 10 * ROUNDING
    assert truncation_kl(labels).mean() == pytest.approx(exact, rel=error)


def even_sample(mean: float, sigma: float) -> np.ndarray:
    """Logits N(mean, sigma^2) below 0, at 400,000 equal steps of probability."""
    steps = (np.arange(400_000) + 0.5) / 400_000
    below = float(torch.special.ndtr(torch.tensor(-mean / sigma, dtype=torch.float64)))
    return mean + sigma * torch.special.ndtri(torch.from_numpy(steps * below)).numpy()


@pytest.mark.parametrize("mean, sigma", [(-1, 0.5), (-3, 1), (-2, 2), (-8, 3), (0, 1), (5, 2), (30, 4), (-6, 0.3)])
def test_a_cut_off_gaussian_by_summation(mean: float, sigma: float) -> None:
    logits = even_sample(mean, sigma)
    log_mean_exp = np.log(np.exp(logits).mean())
    weights = np.exp(logits) / np.exp(logits).sum()
    delta, kl = log_mean_exp - logits.mean(), weights @ logits - log_mean_exp
    assert tail_kl(np.array([-logits.mean()]), np.array([delta]))[0] == pytest.approx(kl, rel=0.002)


@pytest.mark.parametrize("shape, rate", [(1.0, 1.0), (1.0, 0.3), (0.5, 0.5), (0.2, 0.1)])
def test_a_gamma_density_in_closed_form(shape: float, rate: float) -> None:
    """At shape 1, the exponential density, both families meet."""
    x, log_mean_exp = shape / rate, -shape * np.log1p(1 / rate)
    kl = -shape / (rate + 1) - log_mean_exp
    assert tail_kl(np.array([x]), np.array([x + log_mean_exp]))[0] == pytest.approx(kl, rel=0.001)


def test_nothing_to_lose() -> None:
    logits = gaussian(50, 8, 2.0)
    assert not truncation_kl(TopKCodec(8, 8).encode(logits)).any()
    # One class alone holds the tail's mass, whatever it is.
    assert not truncation_kl(TopKCodec(7, 8).encode(logits)).any()
    logits[:, 4:] = -torch.inf
    logits[:, :4] += 100
    assert not truncation_kl(TopKCodec(4, 8).encode(logits)).any()


def test_an_even_tail_loses_nothing() -> None:
    logits = torch.zeros(1, 100)
    logits[0, :4] = 3.0
    assert truncation_kl(TopKCodec(4, 100).encode(logits))[0] < 0.03  # the mean gap is rounded to 1/8 nat


def test_unknown_where_a_class_has_no_probability() -> None:
    logits = gaussian(3, 20, 1.0)
    logits[1].scatter_(0, logits[1].argmin(), -torch.inf)
    estimate = truncation_kl(TopKCodec(4, 20).encode(logits))
    assert np.isnan(estimate).tolist() == [False, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 400), st.integers(1, 400), st.floats(1e-3, 300), st.floats(0, 200), st.integers(0, 2**31), st.data()
)
def test_always_between_nothing_and_all(
    classes: int, k: int, scale: float, lead: float, seed: int, data: st.DataObject
) -> None:
    """0 <= KL <= mass * ln R for any logits, however confident or flat."""
    k = min(k, classes)
    logits = scale * torch.randn(8, classes, generator=torch.Generator().manual_seed(seed))
    logits[:, data.draw(st.integers(0, classes - 1))] += lead
    labels = TopKCodec(k, classes).encode(logits)
    estimate = truncation_kl(labels)
    rest = classes - k
    mass = rest * labels.probabilities()[1].double().numpy()
    assert np.isfinite(estimate).all() and (estimate >= 0).all()
    assert (estimate <= mass * np.log(max(rest, 1)) + 1e-12).all()


@pytest.mark.fault("11.8 a temperature that the labels cannot serve")
@pytest.mark.parametrize(
    ("classes", "k", "scale"), [(1000, 16, 2.0), (1000, 16, 4.0), (200, 16, 3.0), (1000, 128, 3.0), (100, 10, 2.0)]
)
def test_what_is_kept_at_a_temperature(classes: int, k: int, scale: float) -> None:
    """Less and less as it rises, near to what the logits themselves say."""
    logits = gaussian(200, classes, scale)
    labels = TopKCodec(k, classes).encode(logits)
    found = []
    for temperature in (1.0, 2.0, 4.0, 20.0):
        probs = torch.softmax(logits.double() / temperature, 1)
        lost = (torch.xlogy(probs, probs) - torch.xlogy(probs, labels.dense(temperature).double())).sum()
        exact = 1 - float(lost / torch.xlogy(probs, probs * classes).sum())
        found.append(information_kept(labels, temperature))
        assert found[-1] == pytest.approx(exact, abs=0.14)
    assert found == sorted(found, reverse=True)
    whole = TopKCodec(classes, classes).encode(logits)
    assert information_kept(whole, 20.0) == 1
