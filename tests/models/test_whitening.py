"""Whitening against its definition, and as a part of networks and teachers."""

from __future__ import annotations

import json

import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.classifier import Classifier, ModelSpec, build_model
from fastlabel.models.whitening import EPSILON, Whitening
from fastlabel.store.store import LabelStore
from fastlabel.teachers.teacher import load_teacher
from fastlabel.train.checkpoint import save_checkpoint

ARCH, SIDE = "zca:convnet-d1-w8", 4


def correlated(count=400, side=SIDE, seed=0):
    random = torch.Generator().manual_seed(seed)
    values = 3 * side * side
    return (torch.randn(count, values, generator=random) @ torch.randn(values, values, generator=random) / 10 + 1).view(
        count, 3, side, side
    )


@pytest.fixture
def fitted():
    whitening = Whitening(SIDE)
    whitening.fit(correlated())
    return whitening


@pytest.fixture
def checkpoint(tmp_path):
    """A whitened network, as it lies on disk."""
    torch.manual_seed(1)
    model = Classifier(ModelSpec(ARCH, 3, 16, (0.0,) * 3, (1.0,) * 3))
    model.net[0].fit(correlated(side=16))
    model.net[1].classifier.weight.data *= 8
    path = tmp_path / "run" / "epoch-001.pt"
    path.parent.mkdir()
    save_checkpoint(path, model, epoch=1, metrics={})
    return path, model


def test_the_covariance_becomes_l_over_l_plus_epsilon(fitted):
    images = correlated()
    before = torch.cov(images.flatten(1).double().T)
    scale, directions = torch.linalg.eigh(before)
    whitened = fitted(images)
    after = directions.T @ torch.cov(whitened.flatten(1).double().T) @ directions
    torch.testing.assert_close(after, torch.diag(scale / (scale + EPSILON)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whitened.flatten(1).mean(0), torch.zeros(3 * SIDE * SIDE), atol=1e-4, rtol=0)
    assert whitened.shape == images.shape
    # Zero-phase: whitened images stay as near to the images as can be, for which the matrix must be symmetric.
    torch.testing.assert_close(fitted.matrix, fitted.matrix.T, atol=1e-6, rtol=1e-6)


def test_small_epsilon_makes_the_values_uncorrelated():
    images, whitening = correlated(), Whitening(SIDE)
    whitening.fit(images, epsilon=1e-9)
    covariance = torch.cov(whitening(images).flatten(1).double().T)
    torch.testing.assert_close(covariance, torch.eye(3 * SIDE * SIDE, dtype=torch.float64), atol=2e-3, rtol=0)


def test_constant_images_and_fewer_images_than_values_stay_finite():
    whitening = Whitening(SIDE)
    for images in (torch.ones(5, 3, SIDE, SIDE), correlated(3)):
        whitening.fit(images)
        assert whitening(images).isfinite().all()
    whitening.fit(torch.ones(5, 3, SIDE, SIDE))
    torch.testing.assert_close(whitening(torch.ones(2, 3, SIDE, SIDE)), torch.zeros(2, 3, SIDE, SIDE))


def test_a_new_one_changes_nothing():
    assert torch.equal(Whitening(SIDE)(correlated(2)), correlated(2))


@pytest.mark.parametrize("shape", [(1, 3, SIDE, SIDE), (5, 3, SIDE, SIDE + 1)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match="whitening of 48 values needs two or more images"):
        Whitening(SIDE).fit(torch.zeros(shape))


def test_a_network_behind_a_whitening():
    torch.manual_seed(2)
    plain = build_model("convnet-d1-w8", 3, SIDE)
    torch.manual_seed(2)
    whitened = build_model(ARCH, 3, SIDE)
    images = correlated(2)
    assert torch.equal(whitened(images), plain(images))  # until it is fitted
    whitened[0].fit(correlated())
    assert torch.equal(whitened(images), plain(whitened[0](images)))
    assert not {name for name, _ in whitened.named_parameters()} & {"0.mean", "0.matrix"}


def test_a_whitened_network_needs_a_size_and_a_known_network():
    with pytest.raises(InputError, match="zca:convnet-d1-w8 needs the size"):
        build_model(ARCH, 3)
    with pytest.raises(InputError, match="unknown model"):
        build_model("zca:convnt-d3", 3, 32)


def test_a_checkpoint_holds_the_whitening(checkpoint):
    path, model = checkpoint
    teacher = load_teacher(path)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    assert teacher.model.spec.arch == ARCH
    assert torch.equal(teacher.model.net[0].matrix, model.net[0].matrix)
    assert torch.equal(teacher.model(pixels), model.eval()(pixels))


def test_a_whitened_teacher_labels_and_is_verified(cli, photos, checkpoint, tmp_path):
    path, store = checkpoint[0], tmp_path / "labels.zarr"
    cache_labels(photos, store, [load_teacher(path)], views=1, k=3, size=16, policy="identity")
    assert LabelStore.open(store).manifest.teachers[0].arch == ARCH
    checked = cli("verify", store, photos, "--teacher", path, "--json")
    assert checked.exit_code == 0, checked.stderr
    assert json.loads(checked.stdout)
    # Another whitening of the same network is another teacher.
    model = load_teacher(path).model
    model.net[0].fit(correlated(side=16, seed=5))
    save_checkpoint(tmp_path / "other.pt", model, epoch=1, metrics={})
    assert cli("verify", store, photos, "--teacher", tmp_path / "other.pt").exit_code != 0
