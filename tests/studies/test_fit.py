"""Training on images in memory: reproducible, able to learn, honest about failure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastlabel.errors import FastlabelError
from fastlabel.labels.sparse import SparseLabels
from fastlabel.models.classifier import build_model
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.config import student_recipe
from fastlabel.studies.in_memory import ResidentImages
from fastlabel.studies.training import EVALUATION_BATCH, Fit, epoch_random, evaluate, hard_loss, soft_loss
from fastlabel.train.recipes import Recipe
from tests.studies.tiny import colour_images

NONE = SiameseAugmentation(())


def network(seed=0, classes=3):
    torch.manual_seed(seed)
    return build_model("convnet-d1-w8", classes, 4)


def fitted(images, loss=None, epochs=4, augment="dsa", seed=0, net=None, **options):
    net = net or network()
    recipe = student_recipe(epochs, lr=0.05, batch_size=5, **options)
    loss = loss or hard_loss(images.targets)
    Fit(net, images.images, loss, recipe, SiameseAugmentation.from_name(augment), seed).run()
    return net


def weights(net):
    return torch.cat([value.flatten() for value in net.state_dict().values()])


def test_the_same_seed_gives_the_same_bits_whatever_torchs_random_numbers():
    images = colour_images()
    once = fitted(images)
    torch.rand(10)
    assert torch.equal(weights(fitted(images)), weights(once))
    assert not torch.equal(weights(fitted(images, seed=1)), weights(once))
    assert not torch.equal(weights(fitted(images, augment="none")), weights(once))


def test_epochs_have_random_numbers_of_their_own():
    draws = [torch.rand(4, generator=epoch_random(seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(torch.stack(draws).unique(dim=0)) == 9
    assert torch.equal(torch.rand(4, generator=epoch_random(1, 2)), draws[5])


def test_a_small_set_is_learned():
    images = colour_images(per_class=8)
    test = colour_images(per_class=20, seed=5)
    net = fitted(images, epochs=60, augment="flip")
    assert evaluate(net, test, 3).top1 > 0.9 > 0.6 > evaluate(network(), test, 3).top1


def test_soft_labels_that_are_hard_train_as_hard_ones():
    images = colour_images()
    labels = SparseLabels.hard(images.targets, 3)
    found, expected = fitted(images, soft_loss(labels)), fitted(images)
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-5, rtol=1e-4)


def test_a_batch_trains_on_its_own_labels():
    """The loss of a step is that of the rows it was given, in their order."""
    images = colour_images()
    probs = torch.rand(12, 3, generator=torch.Generator().manual_seed(3)).softmax(1)
    loss, rows = soft_loss(SparseLabels.from_dense(probs)), torch.tensor([7, 0, 3])
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(loss(logits, rows), -(probs[rows] * F.log_softmax(logits, 1)).sum(1).mean())
    torch.testing.assert_close(hard_loss(images.targets)(logits, rows), F.cross_entropy(logits, images.targets[rows]))


def test_training_is_plain_sgd_with_the_papers_schedule():
    """By hand: momentum 0.9, weight decay 5e-4, the rate times 0.3 after each quarter of the epochs."""
    images, seed, net, twin = colour_images(), 4, network(), network()
    fit = Fit(net, images.images, hard_loss(images.targets), student_recipe(8, batch_size=5), NONE, seed)
    fit.run()
    buffers = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for epoch in range(8):
        order = torch.randperm(12, generator=epoch_random(seed, epoch))
        for rows in order.split(5):
            twin.zero_grad()
            F.cross_entropy(twin(images.images[rows]), images.targets[rows]).backward()
            with torch.no_grad():
                for parameter, buffer in zip(twin.parameters(), buffers, strict=True):
                    buffer.mul_(0.9).add_(parameter.grad + 5e-4 * parameter)
                    parameter -= 0.01 * 0.3 ** (epoch // 2) * buffer
    torch.testing.assert_close(weights(net), weights(twin), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("count", "batch", "steps"), [(12, 5, [5, 5, 2]), (11, 5, [5, 5]), (1, 5, [1]), (10, 5, [5, 5])]
)
def test_every_step_is_told_and_no_last_batch_of_one_is_trained_on(count, batch, steps):
    images, told = colour_images(), []
    recipe = student_recipe(2, batch_size=batch)
    Fit(network(), images.images[:count], hard_loss(images.targets), recipe, NONE, 0, told.append).run()
    assert told == 2 * steps


def test_a_loss_that_is_not_finite_is_an_error():
    images = colour_images()
    with pytest.raises(FastlabelError, match="the loss became nan by epoch 2: try a lower learning rate"):
        Fit(
            network(),
            torch.full_like(images.images, torch.nan),
            hard_loss(images.targets),
            Recipe(2, 5, lr=0.1),
            NONE,
            0,
        ).run()


def test_evaluation_against_a_loop():
    net, images = network(classes=4).train(), colour_images(per_class=EVALUATION_BATCH // 2 + 1, classes=3)
    found = evaluate(net, images, 4)
    with torch.no_grad():
        logits = torch.cat([net(image[None]) for image in images.images])
    hits = (logits.argmax(1) == images.targets).double()
    assert found.top1 == pytest.approx(float(hits.mean()), abs=1e-12)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, images.targets)), rel=1e-5)
    for c in range(3):
        assert found.by_class[c] == pytest.approx(float(hits[images.targets == c].mean()), abs=1e-12)
    assert np.isnan(found.by_class[3])  # no image of it
    assert net.training


def test_evaluation_uses_the_statistics_of_training():
    """Batch norm in evaluation mode: the result of an image does not hang on its neighbours."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    images = colour_images()
    alone = [
        evaluate(net, ResidentImages(images.images[i : i + 1], images.targets[i : i + 1], images.ids[i : i + 1]), 3)
        for i in range(12)
    ]
    assert evaluate(net, images, 3).loss == pytest.approx(np.mean([one.loss for one in alone]), rel=1e-5)
    assert net[0].num_batches_tracked == 0


def test_bfloat16_trains_about_as_float32():
    images = colour_images(per_class=8)
    exact, rough = fitted(images, epochs=8), fitted(images, epochs=8, amp=True)
    assert not torch.equal(weights(rough), weights(exact)) and weights(rough).dtype == torch.float32
    found, expected = evaluate(rough, images, 3, amp=True), evaluate(exact, images, 3)
    assert found.loss == pytest.approx(expected.loss, rel=0.1)
