"""Images in memory are those that the network behind the normalisation and whitening would see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.studies.in_memory import decode_pixels, fitted_spec, load_resident, preprocess, trunk, whitening_of
from tests.studies.tiny import CLASSES, SIDE, colour_images

CPU = torch.device("cpu")


@pytest.fixture
def beton(data):
    return Beton.open(data.train)


@pytest.fixture(params=["convnet-d1-w8", "zca:convnet-d1-w8"])
def model(request, beton):
    pixels = decode_pixels(beton, np.arange(beton.num_samples), SIDE)
    torch.manual_seed(0)
    made = Classifier(fitted_spec(request.param, CLASSES, pixels)).eval()
    if whitening_of(made) is not None:
        whitening_of(made).fit(made.normalise(pixels))
    return made


def test_preprocessing_is_the_classifiers_own_front(model, beton):
    pixels = decode_pixels(beton, np.arange(30), SIDE)
    images = preprocess(model, pixels, CPU)
    assert images.shape == (30, 3, SIDE, SIDE) and images.is_contiguous() and images.dtype == torch.float32
    torch.testing.assert_close(trunk(model)(images), model(pixels), atol=1e-5, rtol=1e-5)


def test_images_in_memory_can_be_trained_on(model, beton):
    images = load_resident(beton, np.arange(4), model, CPU).images
    network = trunk(model).train()
    network(images * 1).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_pixels_are_those_of_the_file_by_id(beton):
    ids = np.array([7, 3, 50])
    pixels = decode_pixels(beton, ids, SIDE)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 3, SIDE, SIDE)
    everything = decode_pixels(beton, np.arange(beton.num_samples), SIDE)
    assert torch.equal(pixels, everything[ids])
    assert len(everything.flatten(1).unique(dim=0)) == beton.num_samples
    assert decode_pixels(beton, ids, 5).shape == (3, 3, 5, 5)


def test_the_spec_has_the_mean_and_deviation_of_the_images(beton):
    pixels = decode_pixels(beton, np.arange(beton.num_samples), SIDE)
    spec = fitted_spec("convnet-d1-w8", CLASSES, pixels)
    images = preprocess(Classifier(spec), pixels, CPU).transpose(0, 1).flatten(1)
    torch.testing.assert_close(images.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(1), torch.ones(3), atol=1e-3, rtol=0)
    assert fitted_spec("zca:convnet-d1-w8", CLASSES, pixels) == ModelSpec(
        "zca:convnet-d1-w8", CLASSES, SIDE, (0.0,) * 3, (1.0,) * 3
    )
    assert min(fitted_spec("convnet-d1-w8", CLASSES, torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)).std) > 0


def test_load_resident_sorts_ids_and_brings_their_classes(model, beton):
    found = load_resident(beton, np.array([60, 2, 60, 30]), model, CPU)
    assert found.ids.tolist() == [2, 30, 60] and len(found) == 3
    assert found.targets.tolist() == beton.targets[[2, 30, 60]].tolist()
    assert torch.equal(found.images, preprocess(model, decode_pixels(beton, np.array([2, 30, 60]), SIDE), CPU))


def test_take_gives_samples_in_the_order_asked_for():
    images = colour_images()
    some = images.take(np.array([11, 0, 4]))
    assert torch.equal(some.images, images.images[[11, 0, 4]])
    assert some.targets.tolist() == [2, 0, 1] and some.ids.tolist() == [11, 0, 4]


@pytest.mark.parametrize("ids", [[12], [0, 99], [-1]])
def test_take_refuses_samples_that_are_not_there(ids):
    with pytest.raises(InputError, match="not among the images in memory"):
        colour_images().take(np.array(ids))
