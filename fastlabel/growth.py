"""From the store that is there to the store that a labelling run asks for."""

from __future__ import annotations

from pathlib import Path

from fastlabel.errors import ManifestMismatchError
from fastlabel.manifest import Manifest, check_same
from fastlabel.store import LabelStore


def existing_store(path: Path, manifest: Manifest, views: int) -> LabelStore | None:
    """The store of this very run, or None where there is none. ManifestMismatchError where it is of another run."""
    if not path.exists():
        return None
    store = LabelStore.open(path)
    if store.num_views != views:
        raise ManifestMismatchError(
            f"{path} is a store of {store.num_views} views, this run asks for {views}; choose another path"
        )
    check_same(str(path), store.manifest, manifest)
    return store
