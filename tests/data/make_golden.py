"""Wrote golden-v1.zarr and golden-v1.json, once: `python -m tests.data.make_golden` in the root of the repository.

Format version 1 is frozen, so both files stay as they are: a change that cannot read them needs version 2, and golden
files of its own. It refuses to write over them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlabel.digests import ids_digest
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.manifest import DatasetInfo, Manifest, Segment, TeacherInfo, Unit
from fastlabel.store.store import LabelStore, empty_labels
from fastlabel.store.units import ARRAYS
from fastlabel.views import ViewPolicy

from ..plain_reader import dataset_fingerprint, read_probabilities

HERE = Path(__file__).resolve().parent
STORE, EXPECTED = HERE / "golden-v1.zarr", HERE / "golden-v1.json"
NUM_CLASSES, KEPT, VIEWS = 10, (3, 2), 2
# Units of 3 samples: row 5 is not in use, the second segment begins at row 6.
SEGMENTS = (np.array([0, 2, 3, 5, 8]), np.array([1, 7]))
TEMPERATURES = (0.5, 1.0, 4.0)
# The last ones are too long and too high for a random-resized-crop: they take the central box.
HEIGHTS, WIDTHS = [40, 41, 56, 33, 48, 64, 50, 51, 400], [40, 61, 33, 48, 50, 300, 52, 53, 9]
LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8]
PAYLOADS = [f"image {n}".encode() for n in range(9)]
# Outside of ASCII and above 32 bits, for the digests and for Philox.
NAMES, SEED = ("élève", "second"), 2**40 + 7


def logits(teacher: int, view: int) -> torch.Tensor:
    """[9, C], by sample: one row of each kind that the codec knows, and ordinary ones."""
    random = torch.Generator().manual_seed(10 * teacher + view)
    rows = torch.randn(len(LABELS), NUM_CLASSES, generator=random, dtype=torch.float64) * 3
    if view == 1:
        rows[0] = 0.25  # flat, equal classes
        rows[2, 4] += 100  # saturated gaps
        rows[3, 2:] = -torch.inf  # a kept class of probability zero, no tail
        rows[5, 7] = -torch.inf  # a tail of unknown mean
    return rows


def manifest() -> Manifest:
    teachers = tuple(
        TeacherInfo(
            name=name,
            arch="convnet-d1-w8",
            sha256=f"{t}" * 64,
            epoch=t + 1,
            size=32,
            mean=(0.485, 0.456, 1e-05),
            std=(0.229, 0.5, 1.0),
            precision="fp32",
            tf32=False,
            device="cpu",
            forward_batch=4,
            codec=TopKCodec(KEPT[t], NUM_CLASSES),
        )
        for t, name in enumerate(NAMES)
    )
    fingerprint = dataset_fingerprint(HEIGHTS, WIDTHS, LABELS, PAYLOADS)
    return Manifest(
        DatasetInfo(len(LABELS), NUM_CLASSES, fingerprint),
        tuple(Segment(len(ids), ids_digest(ids)) for ids in SEGMENTS),
        ViewPolicy.random_resized_crop(32, SEED),
        VIEWS,
        Unit(1, 3),
        teachers,
    )


def boxes(store: LabelStore, view: int, ids: np.ndarray) -> np.ndarray:
    return store.views.boxes(view, ids, np.array(HEIGHTS)[ids], np.array(WIDTHS)[ids])


def write_store() -> LabelStore:
    store = LabelStore.create(STORE, manifest(), SEGMENTS, [f"klass {n} ✓" for n in range(NUM_CLASSES)])
    for t, info in enumerate(store.manifest.teachers):
        for unit in store.units():
            view, ids = unit.view_start, store.unit_ids(unit)
            labels, encoded = empty_labels(info.codec, unit.shape), info.codec.encode(logits(t, view)[ids])
            for name in ARRAYS:
                labels[name][0] = getattr(encoded, name).numpy()
            store.write(unit, t, labels, [boxes(store, view, ids)])
    return store


def planes(store: LabelStore) -> list[dict[str, Any]]:
    return [
        {
            "teacher": t,
            "view": view,
            "temperature": temperature,
            "probabilities": read_probabilities(STORE, t, view, temperature).round(8).tolist(),
        }
        for t in range(len(NAMES))
        for view in range(VIEWS)
        for temperature in TEMPERATURES
    ]


def expected(store: LabelStore) -> dict[str, Any]:
    records = {t: {unit.key: store.record(unit, t) for unit in store.units()} for t in range(len(NAMES))}
    return {
        "heights": HEIGHTS,
        "widths": WIDTHS,
        "labels": LABELS,
        "payloads": [payload.decode() for payload in PAYLOADS],
        "fingerprint": store.manifest.dataset.fingerprint,
        "samples": [ids.tolist() for ids in SEGMENTS],
        "samples_digests": [segment.digest for segment in store.manifest.samples],
        "manifest_digests": [store.manifest.digest(t) for t in range(len(NAMES))],
        "label_digests": [{key: record.labels for key, record in of.items()} for of in records.values()],
        "box_digests": {key: record.boxes for key, record in records[0].items()},
        "boxes": [boxes(store, view, store.ids).tolist() for view in range(VIEWS)],
        "planes": planes(store),
    }


def main() -> None:
    if EXPECTED.exists():
        raise SystemExit(f"{EXPECTED} exists: format version 1 is frozen")
    content = expected(write_store())
    # A plane or a key on each line: readable, and small.
    planes_text = ",\n".join(json.dumps(plane, separators=(",", ":")) for plane in content.pop("planes"))
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    EXPECTED.write_text(f'{{\n{lines},\n"planes": [\n{planes_text}\n]\n}}\n')


if __name__ == "__main__":
    main()
