"""Whether a teacher's classes are in the order of the dataset's: by name where both have names, else on trust."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from fastlabel.errors import InputError
from fastlabel.teachers.class_map import IN_ORDER, Classes
from fastlabel.teachers.teacher import Teacher

logger = logging.getLogger(__name__)
# SHA-256 of the 1,000 WordNet ids of ILSVRC 2012, ascending, one a line (timm's ImageNetInfo has them).
_IMAGENET_IDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def in_order(teacher: Teacher, dataset: Classes) -> Teacher:
    """The teacher with its classes in the dataset's order, as their names say.

    A teacher that has a class map, its own classes, or another number of them is left as it is; so is one of which
    nothing says the names, with a warning. InputError where names differ.
    """
    if teacher.class_map is not None or teacher.keeps_classes or teacher.num_classes != dataset.count:
        return teacher
    owner, theirs, ours = f"teacher {teacher.name}", teacher.categories, dataset.names
    if not theirs or not ours:
        logger.warning(
            "%s has no class names: that class i of %s is class i of %s is taken on trust",
            dataset.owner if theirs else owner,
            owner,
            dataset.owner,
        )
        return teacher
    if _plain(theirs) == _plain(ours) or _is_imagenet(ours, theirs):
        return teacher
    place = {name: index for index, name in enumerate(_plain(theirs))}
    if len(place) == len(theirs) and set(place) == set(_plain(ours)):
        logger.warning("%s has the classes of %s in another order: they are mapped by name", owner, dataset.owner)
        return replace(teacher, class_map=tuple(place[name] for name in _plain(ours)))
    pairs = enumerate(zip(_plain(ours), _plain(theirs), strict=True))
    differing = [index for index, (one, other) in pairs if one != other]
    shown = ", ".join(f"{index} is {ours[index]!r} and {theirs[index]!r}" for index in differing[:5])
    raise InputError(
        f"the classes of {dataset.owner} and {owner} have other names: {shown}{', ...' if len(differing) > 5 else ''}; "
        f"say with --class-map FILE which is which, or that they are in the same order with --class-map {IN_ORDER}"
    )


def _plain(names: tuple[str, ...]) -> list[str]:
    return [name.casefold().replace("_", " ") for name in names]


def _is_imagenet(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether WordNet ids meet the English names that torchvision has for them: both are in the order of the ids."""
    if hashlib.sha256("\n".join(ours).encode()).hexdigest() != _IMAGENET_IDS:
        return False
    from torchvision.models import ResNet18_Weights

    return list(theirs) == ResNet18_Weights.DEFAULT.meta["categories"]
