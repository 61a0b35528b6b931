"""Whether a loader can be made of what it was given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.loading.plan import Batching
from fastlabel.loading.share import Share
from fastlabel.store.store import LabelStore
from fastlabel.system.arguments import integer_vector


def check_share(batching: Batching, share: Share) -> None:
    """InputError unless every rank has a sample of a whole batch."""
    if batching.images < share.world_size:
        shown = f" with {batching.views_per_image} crops of each sample" if batching.views_per_image > 1 else ""
        raise InputError(
            f"a batch_size of {batching.batch_size}{shown} leaves some of the {share.world_size} ranks without a sample"
        )


def check_class_map(class_map: Sequence[int] | None, num_classes: int) -> NDArray[np.int64] | None:
    """int64 [classes of the dataset] of what a caller gave; InputError of anything else."""
    if class_map is None:
        return None
    found = integer_vector("class_map", class_map)
    if len(found) != num_classes:
        raise InputError(f"class_map has {len(found)} entries, expected one for each of the {num_classes} classes")
    return found


def check_store(store: LabelStore, beton: Beton, teacher: int, batching: Batching) -> None:
    """An error unless the store is of this dataset, and has the teacher and enough views."""
    store.check_teacher(teacher)
    store.check_dataset(beton.num_samples, beton.fingerprint(), beton.path)
    if batching.views_per_image > store.num_views:
        raise InputError(
            f"views_per_image {batching.views_per_image} is more than the {store.num_views} views of "
            f"{store.path}: an epoch takes different views of an image"
        )
    _check_behind(store, teacher)


def _check_behind(store: LabelStore, teacher: int) -> None:
    """MissingLabelsError where the teacher lacks views that another one has.

    A run that is labelling them now may be ahead of the reader. Where another teacher has them, the store grew without
    this one: the first epoch that shows such a view may be far away.
    """
    others = [number for number in range(len(store.manifest.teachers)) if number != teacher]
    lacking = _views_lacking(store, teacher) if others else []
    for other in others if lacking else ():
        behind = sorted(set(lacking) - set(_views_lacking(store, other)))
        if behind:
            shown = ", ".join(map(str, behind[:8])) + (", ..." if len(behind) > 8 else "")
            raise MissingLabelsError(
                f"{store.path}: teacher {teacher} lacks {len(behind)} of the {store.num_views} views, which teacher "
                f"{other} has: {shown}; label them with `fastlabel cache-labels`, giving this teacher and "
                f"--views {store.num_views}"
            )


def _views_lacking(store: LabelStore, teacher: int) -> list[int]:
    """Views of which a unit of this teacher is not committed."""
    lacking: set[int] = set()
    for unit in store.units():
        record = store.record(unit, teacher)
        lacking.update(range(unit.view_start if record is None else record.view_stop, unit.view_stop))
    return sorted(lacking)
