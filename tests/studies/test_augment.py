"""Each operation of DSA against a slow one of its definition (arXiv 2102.08259), with the same random numbers."""

from __future__ import annotations

import math

import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.studies.augment import STRATEGY, SiameseAugmentation

SHAPES = [(5, 3, 8, 8), (3, 3, 7, 11), (1, 3, 5, 5)]


def images(shape=SHAPES[0], seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def strengths(random, count, low, high):
    return (low + (high - low) * torch.rand(count, generator=random)).tolist()


def whole(random, count, low, high):
    return torch.randint(low, high + 1, (count,), generator=random).tolist()


def color(batch, random):
    count = len(batch)
    brighter = strengths(random, count, -0.5, 0.5)
    richer = strengths(random, count, 0, 2)
    sharper = strengths(random, count, 0.5, 1.5)
    made = []
    for image, b, s, c in zip(batch, brighter, richer, sharper, strict=True):
        image = image + b
        grey = (image[0] + image[1] + image[2]) / 3
        image = torch.stack([grey + (channel - grey) * s for channel in image])
        made.append(image.mean() + (image - image.mean()) * c)
    return made


def crop(batch, random):
    height, width = batch.shape[2:]
    most_y, most_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    shifts = whole(random, len(batch), -most_y, most_y), whole(random, len(batch), -most_x, most_x)
    return [
        per_pixel(image, lambda y, x, dy=dy, dx=dx: (y + dy, x + dx))
        for image, dy, dx in zip(batch, *shifts, strict=True)
    ]


def cutout(batch, random):
    height, width = batch.shape[2:]
    tall, wide = int(height / 2 + 0.5), int(width / 2 + 0.5)
    ys = whole(random, len(batch), 0, height - tall % 2)
    xs = whole(random, len(batch), 0, width - wide % 2)
    made = batch.clone()
    for image, y, x in zip(made, ys, xs, strict=True):
        top, left = y - tall // 2, x - wide // 2
        image[:, max(0, top) : max(0, top + tall), max(0, left) : max(0, left + wide)] = 0
    return list(made)


def flip(batch, random):
    mirrored = [u < 0.5 for u in strengths(random, len(batch), 0, 1)]
    return [torch.stack(image.unbind(2)[::-1], 2) if m else image for image, m in zip(batch, mirrored, strict=True)]


def scale(batch, random):
    xs, ys = strengths(random, len(batch), 1 / 1.2, 1.2), strengths(random, len(batch), 1 / 1.2, 1.2)
    return [
        per_pixel(image, about_centre(image, (sx, 0), (0, sy))) for image, sx, sy in zip(batch, xs, ys, strict=True)
    ]


def rotate(batch, random):
    angles = strengths(random, len(batch), -math.radians(15), math.radians(15))
    return [
        per_pixel(image, about_centre(image, (math.cos(a), -math.sin(a)), (math.sin(a), math.cos(a))))
        for image, a in zip(batch, angles, strict=True)
    ]


def about_centre(image, to_x, to_y):
    """Where a pixel is taken from: a linear map about the centre, in units of half the image's sides."""
    middle_y, middle_x = (side / 2 - 0.5 for side in image.shape[1:])

    def source(y, x):
        v, u = (y - middle_y) / middle_y, (x - middle_x) / middle_x
        return (to_y[0] * u + to_y[1] * v + 1) * middle_y, (to_x[0] * u + to_x[1] * v + 1) * middle_x

    return source


def per_pixel(image, source):
    """Every pixel from its source, bilinear; outside of the image all is 0."""
    made = torch.zeros_like(image)
    height, width = image.shape[1:]
    for y in range(height):
        for x in range(width):
            from_y, from_x = source(y, x)
            for at_y in (math.floor(from_y), math.floor(from_y) + 1):
                for at_x in (math.floor(from_x), math.floor(from_x) + 1):
                    share = (1 - abs(from_y - at_y)) * (1 - abs(from_x - at_x))
                    if 0 <= at_y < height and 0 <= at_x < width:
                        made[:, y, x] += share * image[:, at_y, at_x]
    return made


NAIVE = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", STRATEGY)
def test_an_operation_is_its_definition(kind, shape):
    augment = SiameseAugmentation((kind,))
    for seed in range(4):
        found = augment(images(shape, seed), generator(seed))
        random = generator(seed)
        torch.randint(1, (), generator=random)  # the choice among one
        expected = torch.stack(NAIVE[kind](images(shape, seed), random))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        assert found.is_contiguous() or found.shape == shape


@pytest.mark.parametrize("kind", STRATEGY)
def test_images_of_a_batch_differ_in_strength_but_for_siamese_ones(kind):
    batch = images()[:1].expand(64, -1, -1, -1)
    assert len(SiameseAugmentation((kind,))(batch, generator()).unique(dim=0)) > 1
    assert len(SiameseAugmentation((kind,), siamese=True)(batch, generator()).unique(dim=0)) == 1


@pytest.mark.slow
def test_a_batch_gets_one_kind_and_all_occur():
    """Sixteen equal images each: what came out tells the kind by the values that stay."""
    augment, random, kinds = SiameseAugmentation(), generator(), set()
    batch = images()[:1].expand(16, -1, -1, -1)
    for _ in range(60):
        before = random.get_state()
        made = augment(batch, random)
        replay = torch.Generator()
        replay.set_state(before)
        kind = STRATEGY[int(torch.randint(len(STRATEGY), (), generator=replay))]
        torch.testing.assert_close(made, torch.stack(NAIVE[kind](batch, replay)), atol=2e-5, rtol=1e-5)
        kinds.add(kind)
    assert kinds == set(STRATEGY)


def test_the_range_of_a_flip_is_half_of_the_images():
    batch = images()[:1].expand(2000, -1, -1, -1)
    mirrored = (SiameseAugmentation(("flip",))(batch, generator()) != batch).flatten(1).any(1).double().mean()
    assert 0.45 < mirrored < 0.55


def test_none_is_the_identity_and_draws_nothing():
    random = generator()
    assert SiameseAugmentation.from_name("none")(images(), random) is not None
    assert torch.equal(SiameseAugmentation.from_name("none")(images(), random), images())
    assert torch.equal(random.get_state(), generator().get_state())


def test_an_empty_batch_stays_empty():
    assert SiameseAugmentation()(images()[:0], generator()).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("kind", STRATEGY)
def test_the_same_numbers_give_the_same_images(kind):
    augment = SiameseAugmentation((kind,))
    assert torch.equal(augment(images(), generator()), augment(images(), generator()))
    assert not torch.equal(augment(images(), generator(1)), augment(images(), generator(2)))


@pytest.mark.parametrize("kind", STRATEGY)
def test_gradients_reach_the_images(kind):
    batch = images((2, 3, 5, 5)).double().requires_grad_()
    # Each operation is affine in the images: its derivative along a direction is the difference of its values.
    along = images((2, 3, 5, 5), 9).double()
    augment = SiameseAugmentation((kind,))
    weights = images((2, 3, 5, 5), 11).double()
    (augment(batch, generator()) * weights).sum().backward()
    change = augment(batch.detach() + along, generator()) - augment(batch.detach(), generator())
    torch.testing.assert_close((batch.grad * along).sum(), (change * weights).sum())
    assert batch.grad.abs().sum() > 0


def test_names():
    assert SiameseAugmentation.from_name("dsa").strategy == STRATEGY
    assert SiameseAugmentation.from_name("crop+flip").strategy == ("crop", "flip")
    assert not SiameseAugmentation.from_name("none").strategy
    with pytest.raises(InputError, match=r"unknown augmentation colour; known are color, crop"):
        SiameseAugmentation.from_name("flip+colour")
