"""The contact sheet: its crops are what the teacher saw, its bars what the store holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError
from fastlabel.inspection.contact_sheet import Cell, contact_sheet, draw_contact_sheet
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.store import LabelStore
from tests.conftest import make_photo_folder
from tests.stores import Maker, make_teacher, write_photos


def cells(sheet: list[list[Cell]]) -> list[Cell]:
    return [cell for row in sheet for cell in row]


def test_crops_are_what_the_teacher_saw(make_store: Maker, photos: Path) -> None:
    """The teacher gives the labels in the store when it is shown the crops of the sheet."""
    store, teacher = LabelStore.open(make_store()), make_teacher()
    sheet = contact_sheet(photos, store, samples=12, columns=3)
    assert [len(row) for row in sheet] == [3] * 12
    for view in range(3):
        column = [row[view] for row in sheet]
        assert {cell.view for cell in column} == {view}
        images = torch.from_numpy(np.stack([cell.crop for cell in column]))
        with torch.no_grad():
            labels = TopKCodec(2, 3).encode(teacher.model(images.permute(0, 3, 1, 2)).float())
        stored = store.plane(view)[[cell.sample for cell in column]]
        # Batches of another size: the last bits of a logit, and so a code, may differ by a step.
        gaps = labels.codes.int() - stored.codes.int()
        assert gaps.abs().max() <= 1 and (gaps == 0).float().mean() > 0.9
        assert (labels.dense() - stored.dense()).abs().max() < 0.05


def test_bars(make_store: Maker, photos: Path) -> None:
    store, data = LabelStore.open(make_store()), Beton.open(photos)
    for cell in cells(contact_sheet(photos, store, samples=12, top=1)):
        labels = store.plane(cell.view)[[cell.sample]]
        probs, target = labels.dense()[0].numpy(), int(data.targets[cell.sample])
        names = ("bird", "cat", "dog")
        first = int(labels.classes[0, 0])
        shown = [first] if first == target else [first, target]
        assert [bar.name for bar in cell.bars[:-1]] == [names[c] for c in shown]
        assert [bar.kind == "target" for bar in cell.bars[:-1]] == [c == target for c in shown]
        assert [bar.probability for bar in cell.bars[:-1]] == pytest.approx(probs[shown].tolist())
        assert cell.bars[-1].kind == "rest" and sum(bar.probability for bar in cell.bars) == pytest.approx(1)
        assert cell.bars[-1].name == ("2 other classes" if len(shown) == 1 else "1 other class")
    whole = cells(contact_sheet(photos, store, samples=1, top=3))[0]
    assert len(whole.bars) in (3, 4) and sum(bar.probability for bar in whole.bars) == pytest.approx(1)


def test_the_choice_follows_from_the_seed(make_store: Maker, photos: Path) -> None:
    path = make_store()
    chosen = [[row[0].sample for row in contact_sheet(photos, path, samples=4, seed=seed)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 4
    # More samples keep those that were there.
    assert [row[0].sample for row in contact_sheet(photos, path, samples=6)][:4] == chosen[0]
    assert [cell.view for cell in contact_sheet(photos, path, views=[2, 1])[0]] == [1, 2]
    assert len(contact_sheet(photos, path, samples=50, columns=9)) == 12


def test_a_partly_committed_store(make_store: Maker, photos: Path) -> None:
    path = make_store(views=192)
    shutil.rmtree(path / "0" / "units" / "0.0")
    assert [cell.view for cell in contact_sheet(photos, path, columns=2)[0]] == [64, 65]
    with pytest.raises(MissingLabelsError, match="no labels of teacher 0 in these views"):
        contact_sheet(photos, path, views=[0, 63])


def test_views_with_no_sample_in_common(photos: Path, tmp_path: Path) -> None:
    """View 0 of samples 0 to 2, view 64 of others: the sheet shows the first of the two views."""
    from fastlabel.labelling.cache import cache_labels

    path = tmp_path / "l.zarr"
    for subset in ([0, 1, 2], [0, 1, 2, 7, 8]):
        cache_labels(photos, path, [make_teacher()], views=128, k=2, forward_batch=4, subset=subset)
    store = LabelStore.open(path)
    assert len({unit.row for unit in store.units()}) > 1
    for unit in store.units():
        if (unit.row == 0) != (unit.column == 0):
            shutil.rmtree(path / "0" / "units" / unit.key)
    last = store.num_views - 1
    sheet = contact_sheet(photos, path, views=[0, last])
    assert {(cell.sample, cell.view) for cell in cells(sheet)} == {(0, 0), (1, 0), (2, 0)}


def test_errors(make_store: Maker, photos: Path, tmp_path: Path) -> None:
    path = make_store()
    other = write_photos(make_photo_folder(tmp_path / "other", per_class=2), tmp_path / "other.beton")
    with pytest.raises(ManifestMismatchError, match="another dataset"):
        contact_sheet(other, path)
    with pytest.raises(MissingLabelsError, match="no teacher 3"):
        contact_sheet(photos, path, teacher=3)
    with pytest.raises(InputError, match="no view 5; it has 3"):
        contact_sheet(photos, path, views=[5])
    with pytest.raises(InputError, match="0 samples x 3 views has no cell"):
        contact_sheet(photos, path, samples=0)
    with pytest.raises(InputError, match=r"must end in one of .*\.png"):
        draw_contact_sheet(tmp_path / "sheet.beton", photos, path)


@pytest.mark.slow
def test_the_figure(make_store: Maker, photos: Path, tmp_path: Path) -> None:
    """Every crop is on the page, each line of bars too, and the same call draws the same bytes."""
    path, out = make_store(), tmp_path / "sheet.png"
    draw_contact_sheet(out, photos, path, samples=3, columns=2)
    first = out.read_bytes()
    draw_contact_sheet(out, photos, path, samples=3, columns=2)
    assert out.read_bytes() == first
    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    drawn = set(map(tuple, np.unique(pixels, axis=0).tolist()))
    assert (0xD1, 0x60, 0x3D) in drawn and (0x1F, 0x6F, 0xB4) in drawn and (0xC8, 0xC8, 0xC8) in drawn
    for cell in cells(contact_sheet(photos, path, samples=3, columns=2)):
        # 16 pixels drawn large: most colours of the crop are there as they were.
        colours = set(map(tuple, cell.crop.reshape(-1, 3).tolist()))
        assert len(colours & drawn) > 0.9 * len(colours)
    few = tmp_path / "few.pdf"
    draw_contact_sheet(few, photos, path, samples=1, columns=1)
    assert few.read_bytes()[:4] == b"%PDF"
