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
from fastlabel.studies.resident_loader import EVALUATION_BATCH, ResidentLoader, epoch_random, whole_batches
from fastlabel.studies.runner import _Steps
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import drops_last
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Trainer
from fastlabel.train.objectives import cached_loss, hard_loss
from fastlabel.train.recipes import Recipe
from tests.studies.tiny import colour_images

CPU = torch.device("cpu")


def network(seed=0, classes=3):
    torch.manual_seed(seed)
    return build_model("convnet-d1-w8", classes, 4)


def loader(images, labels=None, batch_size=5, augment="dsa", seed=0, drop_last=False):
    return ResidentLoader(images, labels, batch_size, SiameseAugmentation.from_name(augment), seed, drop_last)


def train(net, loader, recipe, labels=None, told=lambda images: None):
    """As a study trains a student: without a folder, tested (here on nothing) at the end."""
    loss = hard_loss() if labels is None else cached_loss()
    trainer = Trainer(
        net, loader, loss, lambda *_: {}, recipe, None, CPU, eval_every=recipe.epochs, reporter=_Steps(told)
    )
    return trainer.fit()


def fitted(images, labels=None, epochs=4, augment="dsa", seed=0, net=None, **options):
    net = net or network()
    train(
        net, loader(images, labels, 5, augment, seed), student_recipe(epochs, lr=0.05, batch_size=5, **options), labels
    )
    return net


def evaluate(net, images, classes, amp=False):
    return Evaluator(whole_batches(images), amp=amp, classes=classes)(net)


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
    assert evaluate(net, test, 3)["val_accuracy"] > 0.9 > 0.6 > evaluate(network(), test, 3)["val_accuracy"]


def test_soft_labels_that_are_hard_train_as_hard_ones():
    images = colour_images()
    labels = SparseLabels.hard(images.targets, 3)
    found, expected = fitted(images, labels), fitted(images)
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-5, rtol=1e-4)


def test_a_batch_trains_on_its_own_labels():
    """The loss of a step is that of the rows it was given, in their order."""
    images = colour_images()
    probs = torch.rand(12, 3, generator=torch.Generator().manual_seed(3)).softmax(1)
    labels = SparseLabels.from_dense(probs)
    for batch in loader(images, labels):
        logits = torch.randn(len(batch.ids), 3, generator=torch.Generator().manual_seed(4))
        expected = -(probs[batch.ids] * F.log_softmax(logits, 1)).sum(1)
        torch.testing.assert_close(cached_loss()(logits, batch), expected)
        assert torch.equal(batch.targets, images.targets[batch.ids])


def test_training_is_plain_sgd_with_the_papers_schedule():
    """By hand: momentum 0.9, weight decay 5e-4, the rate times 0.3 after each quarter of the epochs."""
    images, seed, net, twin = colour_images(), 4, network(), network()
    train(net, loader(images, augment="none", seed=seed), student_recipe(8, batch_size=5))
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
    images, told, net = colour_images(), [], network()
    some = images.take(images.ids[:count])
    last = drops_last(count, batch, net, Ranks())
    train(net, loader(some, None, batch, "none", 0, last), student_recipe(2, batch_size=batch), told=told.append)
    assert told == 2 * steps


def test_a_loss_that_is_not_finite_is_an_error():
    images = colour_images()
    broken = ResidentImages(torch.full_like(images.images, torch.nan), images.targets, images.ids)
    for epochs in (2, 250):  # read at the end of the first hundred, long before that of training
        told = []
        with pytest.raises(FastlabelError, match=f"nan in epoch {min(epochs, 100)}, step 1: try a lower learning rate"):
            train(network(), loader(broken, augment="none"), Recipe(epochs, 5, lr=0.1), told=told.append)
        assert len(told) == 3 * min(epochs, 100)


def test_losses_are_read_where_somebody_wants_them():
    """A GPU need not wait elsewhere."""
    images = colour_images()
    history = train(network(), loader(images), student_recipe(120, batch_size=5))
    assert [metrics["epoch"] for metrics in history] == [100, 120]


def test_evaluation_against_a_loop():
    net, images = network(classes=4).train(), colour_images(per_class=EVALUATION_BATCH // 2 + 1, classes=3)
    found = evaluate(net, images, 4)
    with torch.no_grad():
        logits = torch.cat([net(image[None]) for image in images.images])
    hits = (logits.argmax(1) == images.targets).double()
    assert found["val_accuracy"] == pytest.approx(float(hits.mean()), abs=1e-12)
    assert found["val_loss"] == pytest.approx(float(F.cross_entropy(logits, images.targets)), rel=1e-5)
    for c in range(3):
        assert found["val_by_class"][c] == pytest.approx(float(hits[images.targets == c].mean()), abs=1e-12)
    assert np.isnan(found["val_by_class"][3])  # no image of it
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
    assert evaluate(net, images, 3)["val_loss"] == pytest.approx(np.mean([one["val_loss"] for one in alone]), rel=1e-5)
    assert net[0].num_batches_tracked == 0


def test_a_state_goes_on_with_the_batches_that_were_left():
    """Augmented as they would have been: the random numbers of those behind it are drawn again."""
    images = colour_images()
    whole = [batch for epoch in range(2) for batch in epoch_of(loader(images), epoch)]
    for done in range(4):
        stopped, again = loader(images), loader(images)
        for _ in zip(range(done), stopped):  # noqa: B905
            pass
        again.load_state_dict(stopped.state_dict() if done else loader(images).state_dict())
        rest = [*epoch_of(again, 0), *epoch_of(again, 1)]
        for batch, wanted in zip(rest, whole[done:], strict=True):
            assert torch.equal(batch.images, wanted.images) and torch.equal(batch.ids, wanted.ids)
            assert torch.equal(batch.targets, wanted.targets)


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return list(loader)


def test_bfloat16_trains_about_as_float32():
    images = colour_images(per_class=8)
    exact, rough = fitted(images, epochs=8), fitted(images, epochs=8, amp=True)
    assert not torch.equal(weights(rough), weights(exact)) and weights(rough).dtype == torch.float32
    found, expected = (evaluate(net, images, 3, amp)["val_loss"] for net, amp in ((rough, True), (exact, False)))
    assert found == pytest.approx(expected, rel=0.1)
