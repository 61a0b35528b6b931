"""docs/format.md is enough to read a store: plain_reader.py, written from it alone, agrees with fastlabel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlabel import LabelStore, ViewPolicy, cache_labels
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.digests import ids_digest
from fastlabel.errors import ManifestMismatchError, MissingLabelsError, StoreError
from fastlabel.labels.codec import TopKCodec
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.store import manifest
from fastlabel.teachers.teacher import Teacher
from tests import plain_reader as plain

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden-v1.zarr"
EXPECTED: dict[str, Any] = json.loads((DATA / "golden-v1.json").read_text())
TEMPERATURES = (0.5, 1, 1.7, 4)


def from_fastlabel(path: Path, teacher: int, view: int, temperature: float) -> np.ndarray:
    store = LabelStore.open(path)
    return store.plane(view, teacher)[plain.read_samples(path)].dense(temperature).numpy()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Stores as cache_labels makes them


@dataclass(frozen=True)
class Case:
    """A store to make, and the units that it must have: views, samples, and how many of each."""

    policy: ViewPolicy
    views: int
    k: int
    teachers: int
    units: tuple[int, int, int, int]
    ipc: int | None = None


CASES = {
    "subset": Case(ViewPolicy.random_resized_crop(8, 3), 5, 3, 2, (2, 8, 3, 3), ipc=2),
    "all classes": Case(ViewPolicy.pad_crop(8, 2**33 + 1, padding=1), 3, 10, 1, (2, 100, 2, 4)),
    "one unit": Case(ViewPolicy.center(8, fraction=(3, 4)), 1, 3, 1, (1, 355, 1, 1)),
}


def make_teacher(number: int) -> Teacher:
    """A random one, as sure as a trained one; the second so sure that gaps leave the range of the codes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        model = Classifier(ModelSpec("convnet-d1-w8", 10, 8)).eval().requires_grad_(False)
    model.net.classifier.weight *= (8, 200)[number]
    return Teacher(model, f"teacher-{number}", number)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    path = tmp_path_factory.mktemp("format") / "digits.beton"
    write_dataset("digits:test", path, progress=False)
    return Beton.open(path)


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, beton: Beton) -> tuple[Case, Path]:
    case = CASES[request.param]
    path = beton.path.with_name(f"{request.param}.zarr")
    with pytest.MonkeyPatch.context() as patch:
        # Small units, so that a small dataset has several, the last ones of them partial.
        patch.setattr(manifest, "UNIT_SAMPLES", case.units[1])
        patch.setattr(manifest, "DECODE_VIEWS", 2)
        patch.setattr(manifest, "MAX_UNIT_VIEWS", 2)
        cache_labels(
            beton,
            path,
            [make_teacher(number) for number in range(case.teachers)],
            case.views,
            case.k,
            policy=case.policy,
            ipc=case.ipc,
            forward_batch=16,
            device="cpu",
        )
    return case, path


def test_the_store_has_the_units_that_are_to_be_read(made: tuple[Case, Path]) -> None:
    case, path = made
    _, shared = plain.open_store(path)
    views, samples, rows, columns = case.units
    assert shared["unit"] == {"views": views, "samples": samples}
    names = {f"{i}.{j}" for i in range(rows) for j in range(columns)}
    for teacher in range(case.teachers):
        assert {unit.name for unit in (path / str(teacher) / "units").iterdir() if unit.is_dir()} == names


def test_probabilities(made: tuple[Case, Path]) -> None:
    case, path = made
    for teacher in range(case.teachers):
        for view in range(case.views):
            for temperature in TEMPERATURES:
                read = plain.read_probabilities(path, teacher, view, temperature)
                wanted = from_fastlabel(path, teacher, view, temperature)
                assert read.shape == wanted.shape and read.dtype == np.float64
                np.testing.assert_allclose(read, wanted, rtol=0, atol=1e-6)


def test_sample_ids(made: tuple[Case, Path], beton: Beton) -> None:
    case, path = made
    ids = plain.read_samples(path)
    assert ids.tolist() == LabelStore.open(path).ids.tolist()
    assert len(ids) == (beton.num_samples if case.ipc is None else 10 * case.ipc)


def test_boxes_of_the_records(made: tuple[Case, Path], beton: Beton) -> None:
    case, path = made
    for teacher in range(case.teachers):
        for view in range(case.views):
            plain.check_boxes(path, teacher, view, beton.heights, beton.widths)
    with pytest.raises(ValueError, match="other boxes"):
        plain.check_boxes(path, 0, 0, 2 * beton.heights, beton.widths)


def test_dataset_fingerprint(made: tuple[Case, Path], beton: Beton) -> None:
    _, shared = plain.open_store(made[1])
    payloads = [beton.payload(sample) for sample in range(beton.num_samples)]
    fingerprint = plain.dataset_fingerprint(beton.heights, beton.widths, beton.targets, payloads)
    assert shared["dataset"] == {"num_samples": 355, "num_classes": 10, "fingerprint": fingerprint}
    assert plain.dataset_fingerprint(beton.heights, beton.widths, beton.targets, payloads[::-1]) != fingerprint


def test_more_classes_than_16_bits_count(tmp_path: Path) -> None:
    golden, path, codec = LabelStore.open(GOLDEN), tmp_path / "wide.zarr", TopKCodec(4, 70_000)
    wide = replace(
        golden.manifest,
        dataset=replace(golden.manifest.dataset, num_classes=codec.num_classes),
        num_views=1,
        samples=(manifest.Segment(len(golden.ids), ids_digest(golden.ids)),),
        teachers=(replace(golden.manifest.teachers[0], codec=codec),),
    )
    store = LabelStore.create(path, wide, [golden.ids])
    logits = 2 * torch.randn(len(store.ids), codec.num_classes, generator=torch.Generator().manual_seed(3))
    logits[:, -1] = 12  # a class beyond 16 bits
    encoded = codec.encode(logits)
    for unit in store.units():
        rows = slice(unit.sample_start, unit.sample_stop)
        arrays = {name: getattr(encoded, name).numpy()[None, rows] for name in ("classes", "codes", "tail")}
        store.write(unit, 0, arrays, [np.zeros((unit.shape[1], 5), np.int32)])
    for temperature in TEMPERATURES:
        read = plain.read_probabilities(path, 0, 0, temperature)
        np.testing.assert_allclose(read, from_fastlabel(path, 0, 0, temperature), rtol=0, atol=1e-6)
        assert (read.argmax(1) == 69_999).all()


# Views


@pytest.mark.parametrize(
    "counter, key, words",
    # The known answers of the authors' Random123.
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox(counter: list[int], key: list[int], words: str) -> None:
    assert " ".join(f"{word:08x}" for word in plain.philox(counter, key)) == words


@pytest.mark.parametrize(
    "policy",
    [
        ViewPolicy.random_resized_crop(32),
        ViewPolicy.random_resized_crop(32, 2**64 - 1, scale=(0.8, 1.0), ratio=(0.5, 3.0), flip=False),
        ViewPolicy.pad_crop(32, 2**40),
        ViewPolicy.pad_crop(40, 5, padding=40, flip=False),
        ViewPolicy.center(32),
        ViewPolicy.center(32, fraction=(1, 1000)),
        ViewPolicy.identity(32, 9),
    ],
    ids=lambda policy: f"{policy.name} {policy.size} {policy.seed}",
)
def test_boxes(policy: ViewPolicy) -> None:
    random, parameters = np.random.default_rng(1), policy.to_dict()
    heights, widths = random.integers(32, 500, (2, 200))
    ids = random.integers(0, 2**31, 200)
    # No random-resized-crop fits into very long and very high ones.
    heights[:20], widths[20:40] = 5000, 5000
    ids[-20:] += 2**40
    for view in (0, 7, 2**32 - 1):
        arguments = list(zip(ids.tolist(), heights.tolist(), widths.tolist(), strict=True))
        boxes = [plain.crop_box(parameters, view, *each) for each in arguments]
        assert boxes == [tuple(box) for box in policy.boxes(view, ids, heights, widths).tolist()]


# The golden store: written once, by tests/data/make_golden.py, and read for ever


@pytest.mark.parametrize("read", [plain.read_probabilities, from_fastlabel], ids=["plain reader", "fastlabel"])
def test_golden_probabilities(read: Callable[..., np.ndarray]) -> None:
    for plane in EXPECTED["planes"]:
        found = read(GOLDEN, plane["teacher"], plane["view"], plane["temperature"])
        np.testing.assert_allclose(found, plane["probabilities"], rtol=0, atol=1e-6)
    assert len(EXPECTED["planes"]) == 12


def test_golden_digests_by_the_plain_reader() -> None:
    root, shared = plain.open_store(GOLDEN)
    payloads = [text.encode() for text in EXPECTED["payloads"]]
    sizes = EXPECTED["heights"], EXPECTED["widths"]
    fingerprint = plain.dataset_fingerprint(*sizes, EXPECTED["labels"], payloads)
    assert shared["dataset"]["fingerprint"] == fingerprint == EXPECTED["fingerprint"]
    plain.check_nodes(GOLDEN)
    assert [segment["digest"] for segment in shared["samples"]] == EXPECTED["samples_digests"]
    segments = plain.read_segments(GOLDEN)
    assert [segment.ids.tolist() for segment in segments] == EXPECTED["samples"]
    assert [(segment.start, segment.stop) for segment in segments] == [(0, 5), (6, 8)]
    for teacher, digest in enumerate(EXPECTED["manifest_digests"]):
        assert plain.manifest_digest(shared, root[str(teacher)].attrs["fastlabel"]) == digest
        for name, labels in EXPECTED["label_digests"][teacher].items():
            record = root[f"{teacher}/units/{name}"].attrs["fastlabel"]
            assert (record["labels"], record["boxes"]) == (labels, EXPECTED["box_digests"][name])
        for view in range(2):
            plain.check_boxes(GOLDEN, teacher, view, *sizes)


def test_golden_digests_by_fastlabel() -> None:
    store = LabelStore.open(GOLDEN)
    assert store.manifest.dataset.fingerprint == EXPECTED["fingerprint"]
    assert [segment.digest for segment in store.manifest.samples] == EXPECTED["samples_digests"]
    assert store.ids.tolist() == sorted(n for ids in EXPECTED["samples"] for n in ids)
    assert [teacher.codec.k for teacher in store.manifest.teachers] == [3, 2]
    assert store.class_names is not None and store.class_names[9] == "klass 9 ✓"
    for teacher, digest in enumerate(EXPECTED["manifest_digests"]):
        assert store.manifest.digest(teacher) == digest
        for unit in store.units():
            record = store.record(unit, teacher)
            assert record is not None
            assert list(record.labels) == EXPECTED["label_digests"][teacher][unit.key]
            assert list(record.boxes) == EXPECTED["box_digests"][unit.key]
    for view in range(2):
        store.check_boxes(view, np.array(EXPECTED["heights"]), np.array(EXPECTED["widths"]))


def test_golden_boxes() -> None:
    store = LabelStore.open(GOLDEN)
    _, shared = plain.open_store(GOLDEN)
    ids = store.ids
    heights, widths = np.array(EXPECTED["heights"])[ids], np.array(EXPECTED["widths"])[ids]
    for view, boxes in enumerate(EXPECTED["boxes"]):
        assert store.views.boxes(view, ids, heights, widths).tolist() == boxes
        each = zip(ids.tolist(), heights.tolist(), widths.tolist(), strict=True)
        assert [list(plain.crop_box(shared["views"], view, *one)) for one in each] == boxes


def test_golden_labels_are_of_every_kind() -> None:
    root, _ = plain.open_store(GOLDEN)
    codes, tail = root["0/codes"][:], root["0/tail"][:]
    assert {0, 254, 255} <= set(codes.ravel().tolist())
    assert {0} < set(tail[..., 0].ravel().tolist())
    assert {0, 65535} < set(tail[..., 1].ravel().tolist())


def test_reading_changes_nothing() -> None:
    before = contents(GOLDEN)
    plain.read_probabilities(GOLDEN, 0, 0, 1)
    from_fastlabel(GOLDEN, 0, 0, 1)
    assert contents(GOLDEN) == before


def test_the_golden_files_are_small() -> None:
    """They are in every clone."""
    assert sum(map(len, contents(DATA).values())) < 60_000


def test_reads_without_fastlabel() -> None:
    """In a process of its own: nothing that fastlabel sets up in zarr is needed."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import plain_reader as plain;"
        "print(plain.read_probabilities(Path(sys.argv[2]), 1, 1, 0.5).round(8).tolist());"
        "sys.exit(any(name.split('.')[0] in ('fastlabel', 'torch') for name in sys.modules))"
    )
    arguments = [sys.executable, "-c", code, str(Path(plain.__file__).parent), str(GOLDEN)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    wanted = next(p for p in EXPECTED["planes"] if (p["teacher"], p["view"], p["temperature"]) == (1, 1, 0.5))
    np.testing.assert_allclose(json.loads(done.stdout), wanted["probabilities"], rtol=0, atol=1e-6)


# Refusals


def edit(node: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the attribute `fastlabel` of a node, and its digest with it."""
    edit_node(node, lambda content: change(content["attributes"]["fastlabel"]))


def edit_array(node: Path, key: str, value: Any) -> None:
    edit_node(node, lambda content: content.update({key: value}))


def edit_node(node: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = node / "zarr.json"
    content = json.loads(path.read_text())
    del content["attributes"]["node_digest"]
    change(content)
    content["attributes"]["node_digest"] = plain.json_digest(content)
    path.write_text(json.dumps(content))


def swap(store: Path, one: str, other: str) -> None:
    """Exchange the shards of two units, in all arrays."""
    for name in ("classes", "codes", "tail"):
        a, b = (store / "0" / name / "c" / place / "0" for place in (one, other))
        assert a.read_bytes() != b.read_bytes()
        kept = a.rename(a.with_name("kept"))
        b.rename(a)
        kept.rename(b)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 16
    path.write_bytes(content)


@dataclass(frozen=True)
class Damage:
    """What was done to a store, and what fastlabel and the plain reader say when they read view 0 of teacher 0."""

    do: Callable[[Path], Any]
    error: type[Exception]
    message: str
    plain_message: str


DAMAGES = {
    "another version": Damage(
        lambda store: edit(store, lambda m: m.update(version=2)),
        StoreError,
        "format version 2, this fastlabel reads version 1; install the fastlabel that wrote it, or label again",
        "format version 2",
    ),
    "another format": Damage(
        lambda store: edit(store, lambda m: m.update(format="slowlabel")),
        StoreError,
        "not a fastlabel store: its manifest has format 'slowlabel'",
        "not a label store",
    ),
    "a lost shard": Damage(
        lambda store: (store / "0/codes/c/0/1/0").unlink(),
        StoreError,
        "unit 0.1 of teacher 0 is damaged or lost: 0/codes/c/0/1/0 is missing",
        "damaged labels",
    ),
    "swapped shards": Damage(
        lambda store: swap(store, "0/0", "0/1"),
        StoreError,
        "unit 0.0 of teacher 0 is damaged or lost",
        "damaged labels",
    ),
    "shards of swapped views": Damage(
        lambda store: swap(store, "0/1", "1/1"),
        StoreError,
        "unit 0.1 of teacher 0 is damaged or lost",
        "damaged labels",
    ),
    "a flipped bit": Damage(
        lambda store: flip_a_bit(store / "0/classes/c/0/0/0"),
        StoreError,
        "damaged or lost: the labels of view 0: 0/classes/c/0/0/0 a chunk does not have its crc32c",
        "checksum",
    ),
    "another seed": Damage(
        lambda store: edit(store, lambda m: m["views"].update(seed=1)),
        ManifestMismatchError,
        "unit 0.0 of teacher 0 was made under another manifest than the store's; its metadata was changed",
        "another manifest",
    ),
    "other weights": Damage(
        lambda store: edit(store / "0", lambda m: m.update(sha256="f" * 64)),
        ManifestMismatchError,
        "unit 0.0 of teacher 0 was made under another manifest",
        "another manifest",
    ),
    "another codec": Damage(
        lambda store: edit(store / "0", lambda m: m["codec"].update(codes_per_nat=16)),
        StoreError,
        "0/zarr.json: is not the manifest of a teacher: InputError: codec is {",
        "unknown codec",
    ),
    "no record": Damage(
        lambda store: shutil.rmtree(store / "0/units/0.1"),
        MissingLabelsError,
        "view 0 of teacher 0 is not labelled yet (unit 0.1 is not committed); run the same `fastlabel cache-labels`",
        "no record 0/units/0.1",
    ),
    "the record of another unit": Damage(
        lambda store: shutil.copy(store / "0/units/0.0/zarr.json", store / "0/units/0.1/zarr.json"),
        StoreError,
        "is damaged: it records the unit (0, 1, 0, 3), its place is (0, 1, 3, 5)",
        "about another unit",
    ),
    "lost sample ids": Damage(
        lambda store: (store / "samples/1/c/0").unlink(),
        StoreError,
        "samples/1/c/0: is missing",
        "has other sample ids",
    ),
    "records of other samples": Damage(
        lambda store: edit(store / "0/units/0.2", lambda record: record.update(samples="0" * 64)),
        ManifestMismatchError,
        "unit 0.2 of teacher 0 holds labels of other samples than the store names there",
        "is of other samples",
    ),
    "a shorter array": Damage(
        lambda store: edit_array(store / "0/classes", "shape", [2, 7, 3]),
        StoreError,
        "0/classes/zarr.json: has shape[1] = 7; this version of fastlabel writes 8",
        "has classes of another shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_refusals(name: str, tmp_path: Path) -> None:
    damage, path = DAMAGES[name], tmp_path / "store.zarr"
    shutil.copytree(GOLDEN, path)
    damage.do(path)
    with pytest.raises(damage.error, match=re.escape(damage.message)) as caught:
        from_fastlabel(path, 0, 0, 1)
    assert type(caught.value) is damage.error
    with pytest.raises(ValueError, match=damage.plain_message):
        plain.read_probabilities(path, 0, 0, 1)


def test_what_is_whole_stays_readable_beside_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(GOLDEN, path)
    shutil.rmtree(path / "0/units/0.1")
    (path / "1/codes/c/0/1/0").unlink()
    (path / "1/codes/c/0/0/0.1234.partial").write_bytes(b"left by a writer that was killed")
    for teacher in range(2):
        whole = plain.read_probabilities(path, teacher, 1, 1)
        np.testing.assert_allclose(whole, from_fastlabel(path, teacher, 1, 1), rtol=0, atol=1e-6)


def test_a_lost_teacher(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(GOLDEN, path)
    shutil.rmtree(path / "1")
    with pytest.raises(StoreError, match="teacher 1"):
        LabelStore.open(path)


def test_what_the_manifest_does_not_count_is_no_part_of_the_store(tmp_path: Path) -> None:
    """As a writer leaves it that was stopped while it made the store grow."""
    path = tmp_path / "store.zarr"
    shutil.copytree(GOLDEN, path)
    shutil.copytree(path / "1", path / "2")
    shutil.copytree(path / "samples/1", path / "samples/2")
    edit_array(path / "0/classes", "shape", [4, 12, 3])
    edit_array(path / "0/tail", "shape", [2, 12, 2])
    store = LabelStore.open(path)
    assert (store.num_views, len(store.ids), len(store.manifest.teachers)) == (2, 7, 2)
    for plane in EXPECTED["planes"]:
        for read in (plain.read_probabilities, from_fastlabel):
            found = read(path, plane["teacher"], plane["view"], plane["temperature"])
            np.testing.assert_allclose(found, plane["probabilities"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("teacher, view", [(2, 0), (0, 2), (0, -1)])
def test_no_such_labels(teacher: int, view: int) -> None:
    with pytest.raises(MissingLabelsError, match=f"has no {'teacher 2' if teacher else f'view {view}'}; it has 2"):
        from_fastlabel(GOLDEN, teacher, view, 1)
    with pytest.raises(ValueError, match="has no"):
        plain.read_probabilities(GOLDEN, teacher, view, 1)


def test_a_sample_that_is_not_labelled() -> None:
    with pytest.raises(MissingLabelsError, match="sample 4 is not labelled in this store, which holds 7 of 9 samples"):
        LabelStore.open(GOLDEN).plane(0)[[0, 4]]
