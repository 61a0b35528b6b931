"""FKD-with-mix files: what is in them comes out of a store, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

import fastlabel
from fastlabel.dataset.beton import Beton
from fastlabel.errors import ManifestMismatchError
from fastlabel.images.loader import ImageLoader
from fastlabel.interchange.fkd_mix import export_fkd_mix, import_fkd_mix
from fastlabel.labelling.cache import cache_labels
from fastlabel.store.store import LabelStore
from tests.interchange.fkd_files import write_fkd_mix
from tests.stores import make_teacher


@pytest.fixture
def beton(photos: Path) -> Beton:
    return Beton.open(photos)


def write(beton: Beton, root: Path, **options: Any) -> list[list[dict[str, np.ndarray]]]:
    return write_fkd_mix(root, beton.heights, beton.widths, np.asarray(beton.targets), beton.num_classes, **options)


@pytest.mark.parametrize("mix", [None, "cutmix", "mixup"])
def test_a_store_has_the_labels_and_crops_of_the_files(
    beton: Beton, tmp_path: Path, mix: str | None, cli: Callable[..., Result]
) -> None:
    written = write(beton, tmp_path / "fkd", mix=mix, batch_size=5)
    done = cli("import", "fkd-mix", tmp_path / "fkd", beton.path, tmp_path / "s.zarr", "--size", 16)
    assert done.exit_code == 0, done.stderr
    store = LabelStore.open(tmp_path / "s.zarr")
    assert store.num_views == 2 and store.views.mixes == (mix is not None)
    for view, batches in enumerate(written):
        plane = store.plane(view)
        for batch in batches:
            ids = batch["ids"]
            boxes = store.views.boxes(view, ids, beton.heights[ids], beton.widths[ids])
            np.testing.assert_array_equal(boxes, batch["boxes"])
            wanted = fastlabel.TopKCodec(3, 3).encode(torch.from_numpy(batch["logits"]))
            found = plane[ids]
            for one, other in zip(found.dense(1.0), wanted.dense(1.0), strict=True):
                torch.testing.assert_close(one, other)
    verified = cli("verify", tmp_path / "s.zarr", beton.path)
    assert verified.exit_code == 0, verified.output
    assert "stored" in cli("inspect", tmp_path / "s.zarr", beton.path).stdout


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_crops_are_those_of_the_published_code(beton: Beton, tmp_path: Path, mix: str) -> None:
    written = write(beton, tmp_path / "fkd", mix=mix, epochs=1, batch_size=6)
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "s.zarr", size=16)
    store = LabelStore.open(tmp_path / "s.zarr")
    images = ImageLoader(beton, store.views, 12)
    images.partners = store.partners
    plain = ImageLoader(beton, fastlabel.ViewPolicy.stored(16, store.views.stored_view(0)[None, :, :5]), 12)
    for batch in written[0]:
        ids = batch["ids"]
        found = images.decode(ids, [0]).images[:, 0]
        own = plain.decode(ids, [0]).images[:, 0].clone()
        rows = torch.tensor([list(ids).index(partner) for partner in batch["partner"]])
        if mix == "cutmix":
            top, left, bottom, right = batch["box"]
            wanted = own.clone()
            wanted[:, top:bottom, left:right] = own[rows, top:bottom, left:right]
            assert torch.equal(found, wanted)
        else:
            lam = float(batch["lam"])
            assert (found.float() - (lam * own.float() + (1 - lam) * own[rows].float())).abs().max() <= 0.51


@pytest.mark.parametrize("mix", [None, "cutmix", "mixup"])
def test_export_and_import_give_the_same_store(beton: Beton, tmp_path: Path, mix: str | None) -> None:
    write(beton, tmp_path / "fkd", mix=mix, batch_size=5)
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "a.zarr", size=16)
    export_fkd_mix(tmp_path / "a.zarr", beton, tmp_path / "again", batch_size=5)
    import_fkd_mix(tmp_path / "again", beton, tmp_path / "b.zarr", size=16)
    one, other = LabelStore.open(tmp_path / "a.zarr"), LabelStore.open(tmp_path / "b.zarr")
    assert one.views.to_dict() == other.views.to_dict()
    for view in range(2):
        a, b = one.plane(view)[:].plane, other.plane(view)[:].plane
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_student_of_the_imported_store_is_that_of_the_source(
    make_store: Callable[..., Path], beton: Beton, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    source = make_store(k=3, views=2)
    done = cli("export", "fkd-mix", source, beton.path, tmp_path / "fkd", "--batch-size", 4)
    assert done.exit_code == 0, done.stderr
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "b.zarr", size=16, unaligned=True)
    weights = []
    for number, store in enumerate((source, tmp_path / "b.zarr")):
        options = ("--arch", "convnet-d2-w8", "--epochs", 2, "--batch-size", 4, "--seed", 1, "--device", "cpu")
        run = tmp_path / f"run{number}"
        done = cli("train-student", beton.path, store, "--val", beton.path, "--out", run, *options)
        assert done.exit_code == 0, done.stderr
        checkpoint = torch.load(sorted(run.glob("*.pt"))[-1], weights_only=True)
        weights.append(checkpoint["state"])
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


def test_own_crops_go_out_and_come_back(make_store: Callable[..., Path], beton: Beton, tmp_path: Path) -> None:
    source = make_store(k=2, views=2)
    export_fkd_mix(source, beton, tmp_path / "fkd", batch_size=4)
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "b.zarr", size=16, k=2, unaligned=True)
    one, other = LabelStore.open(source), LabelStore.open(tmp_path / "b.zarr")
    ids = one.ids
    for view in range(2):
        boxes = [store.views.boxes(view, ids, beton.heights, beton.widths) for store in (one, other)]
        np.testing.assert_array_equal(*boxes)
        a, b = one.plane(view)[ids], other.plane(view)[ids]
        assert torch.equal(a.classes, b.classes) and torch.equal(a.codes, b.codes)
        torch.testing.assert_close(a.dense(), b.dense(), atol=2e-3, rtol=0)


def _drop_epoch(root: Path) -> None:
    (root / "epoch_0").rename(root / "epoch_2")


def _truncate(root: Path) -> None:
    path = root / "epoch_1" / "batch_1.tar"
    path.write_bytes(path.read_bytes()[:-300])


def _with_code(root: Path) -> None:
    torch.save([Path("x")] * 6, root / "epoch_0" / "batch_0.tar")


def _change(place: int, value: Callable[[Any], Any]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "epoch_1" / "batch_0.tar"
        content = torch.load(path, weights_only=False)
        content[place] = value(content[place])
        torch.save(content, path)

    return change


def _swap(root: Path) -> None:
    one, other = root / "epoch_1" / "batch_0.tar", root / "epoch_1" / "batch_1.tar"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


BAD = {
    "a missing epoch": (_drop_epoch, "lacks epoch_0"),
    "a missing batch": (lambda root: (root / "epoch_1" / "batch_2.tar").unlink(), "one is lacking"),
    "a truncated file": (_truncate, "damaged or cut short"),
    "a pickle with code": (_with_code, "can run code"),
    "labels of another size": (_change(5, lambda logits: torch.cat([logits, logits], 1)), "expected floating-point"),
    "a NaN": (_change(5, lambda logits: logits * float("nan")), "has NaN"),
    "batches swapped": (_swap, "no whole pixels"),
    "another list": (_change(0, lambda coords: coords[:, :3]), r"expected \[B, 4\]"),
    "a partner outside": (_change(2, lambda index: index + 1), "mix index"),
    "a box outside": (_change(4, lambda box: [0, 0, 99, 99]), "leaves a crop of 16"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_error_and_nothing_is_written(
    beton: Beton, tmp_path: Path, case: str, cli: Callable[..., Result]
) -> None:
    write(beton, tmp_path / "fkd", batch_size=5)
    damage, wanted = BAD[case]
    damage(tmp_path / "fkd")
    done = cli("import", "fkd-mix", tmp_path / "fkd", beton.path, tmp_path / "s.zarr", "--size", 16)
    assert done.exit_code in (1, 2) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert re.search(wanted, done.stderr), done.stderr
    assert not list(tmp_path.glob("s.zarr*"))


def test_a_damaged_table_of_crops_is_found(beton: Beton, tmp_path: Path, cli: Callable[..., Result]) -> None:
    write(beton, tmp_path / "fkd", batch_size=5)
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "s.zarr", size=16)
    table = tmp_path / "s.zarr" / "crops" / "c" / "1" / "0" / "0"
    other = tmp_path / "s.zarr" / "crops" / "c" / "0" / "0" / "0"
    table.write_bytes(other.read_bytes())
    done = cli("verify", tmp_path / "s.zarr")
    assert done.exit_code == 1 and "crops/c/1/0/0" in done.stdout
    table.unlink()
    done = cli("verify", tmp_path / "s.zarr")
    assert done.exit_code == 1 and "error: crops/c/1/0/0: is missing; import" in done.stdout


def test_a_copy_keeps_the_crops_and_other_views_do_not_grow_it(
    beton: Beton, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    write(beton, tmp_path / "fkd", batch_size=5)
    import_fkd_mix(tmp_path / "fkd", beton, tmp_path / "s.zarr", size=16)
    assert cli("copy", tmp_path / "s.zarr", tmp_path / "c.zarr").exit_code == 0
    assert cli("verify", tmp_path / "c.zarr", beton.path).exit_code == 0
    with pytest.raises(ManifestMismatchError, match=r'views\.name is "stored"'):
        cache_labels(beton, tmp_path / "s.zarr", teachers=[make_teacher()], views=4, k=2, size=16)
