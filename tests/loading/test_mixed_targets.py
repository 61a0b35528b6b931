"""Hard labels of mixed crops, and the losses that use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastlabel import LabelStore, Mixing, SoftLabelLoader, SoftLabelLoss
from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.train.objectives import cached_use, hard_loss, loss_of_epoch

MakeStore = Callable[..., Path]


@pytest.mark.parametrize("views_per_image", [1, 3])
def test_partners_classes_and_shares_of_pixels(photos: Path, make_store: MakeStore, views_per_image: int) -> None:
    """The share is the part of the pixels that are the sample's own; of MixUp lambda."""
    store = LabelStore.open(make_store(k=3, mixing=Mixing.of(cutmix=0.5, mixup=0.5, block=4)))
    targets, size, partners = Beton.open(photos).targets, store.views.size, store.partners
    assert partners is not None
    loader = SoftLabelLoader(photos, store, 4 * views_per_image, views_per_image=views_per_image, seed=1)
    kinds = set()
    for batch in loader:
        moved = batch.to("cpu")
        assert moved.second_targets is not None and moved.own_share is not None
        for at, sample in enumerate(batch.ids.tolist()):
            view = loader.views(0)[at % views_per_image]
            partner, weight, top, left, bottom, right = partners.table(view, np.array([sample]))[0].tolist()
            own = np.ones((size, size))
            own[top:bottom, left:right] = weight / 65536
            kinds.add("mixup" if weight else "cutmix" if own.mean() < 1 else "whole")
            assert moved.own_share[at] == pytest.approx(own.mean(), abs=1e-6)
            assert moved.second_targets[at] == targets[partner] and batch.targets[at] == targets[sample]
    assert kinds >= {"mixup", "cutmix"}


def test_crops_that_are_not_mixed_have_one_class(photos: Path, make_store: MakeStore) -> None:
    batch = next(iter(SoftLabelLoader(photos, make_store(), 4)))
    assert batch.second_targets is None and batch.own_share is None
    assert batch.to("cpu").second_targets is None


def test_hard_parts_of_a_loss_weigh_both_classes(photos: Path, make_store: MakeStore) -> None:
    store = make_store(k=3, mixing=Mixing.of(cutmix=1.0, block=4))
    batch = next(iter(SoftLabelLoader(photos, store, 12)))
    logits = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = F.one_hot(batch.targets, 3).double(), F.one_hot(batch.second_targets, 3).double()
    own = batch.own_share.double()[:, None]
    both = own * first + (1 - own) * second
    assert not torch.equal(both, first)
    hard = -(both * torch.log_softmax(logits, 1)).sum(1)
    torch.testing.assert_close(hard_loss()(logits, batch).double(), hard, rtol=1e-5, atol=1e-5)
    smooth = F.cross_entropy(logits, 0.8 * both + 0.2 / 3, reduction="none")
    torch.testing.assert_close(hard_loss(0.2)(logits, batch).double(), smooth, rtol=1e-5, atol=1e-5)
    soft = SoftLabelLoss("kl", 4.0, 4.0)(logits, batch.labels, reduction="none")
    use = SoftLabelLoss("kl", 4.0, 4.0, hard_weight=0.25, phases="soft:1,hard:1", epochs=2)
    found = [loss_of_epoch(cached_use(use), epoch)(logits, batch) for epoch in (0, 1)]
    torch.testing.assert_close(found[0], 0.75 * soft + 0.25 * hard, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], hard, rtol=1e-5, atol=1e-5)
    gift = SoftLabelLoss("gift")
    mixed = gift(logits, batch.labels, batch.targets, 0, "none", batch.second_targets, batch.own_share)
    assert bool((mixed - gift(logits, batch.labels, batch.targets, reduction="none")).abs().max() > 1e-4)
    with pytest.raises(InputError, match="give both, or none"):
        use(logits, batch.labels, batch.targets, own_share=batch.own_share)
