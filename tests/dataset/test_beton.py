"""Opening betons: FFCV's own, damaged ones, and the fingerprint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastlabel.dataset import fingerprint as fingerprint_module
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.tables import DESCRIPTION, HEADER, JPEG, RAW
from fastlabel.errors import DatasetError
from tests.betons import WriteBeton
from tests.conftest import photo_like
from tests.dataset.ffcv_betons import large_images

Images = list[NDArray[np.uint8]]
KEPT = ".fingerprint.json"
HEADER_OF_FIELD = DESCRIPTION.itemsize


def patch(path: Path, at: int, new: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(new)


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copy(source, folder / source.name))


def photos(count: int = 5) -> Images:
    return [photo_like(20 + 3 * index, 40 - index, index, index) for index in range(count)]


@pytest.mark.parametrize("name", ["jpg", "raw", "smart", "proportion", "extra", "pages"])
def test_betons_of_ffcv_open_as_they_are(ffcv_betons: Path, ffcv_images: Images, name: str) -> None:
    beton = Beton.open(ffcv_betons / f"{name}.beton")
    assert beton.num_samples == len(ffcv_images) and beton.num_classes == 5
    assert beton.heights.tolist() == [image.shape[0] for image in ffcv_images]
    assert beton.widths.tolist() == [image.shape[1] for image in ffcv_images]
    assert beton.targets.tolist() == [index % 5 for index in range(len(ffcv_images))]
    assert beton.targets.dtype == np.int64 and beton.class_names is None and beton.common_size is None
    modes = beton.index["mode"].tolist()
    jpg, raw = JPEG, RAW
    assert set(modes) == {"jpg": {jpg}, "pages": {jpg}, "raw": {raw}}.get(name, {jpg, raw})
    for sample, image in enumerate(ffcv_images):
        if modes[sample] == raw:
            assert beton.payload(sample) == image.tobytes()
        else:
            assert beton.payload(sample)[:2] == b"\xff\xd8" and beton.payload(sample)[-2:] == b"\xff\xd9"


def test_images_on_pages_of_their_own(ffcv_betons: Path) -> None:
    beton = Beton.open(ffcv_betons / "large.beton")
    assert [beton.payload(sample) for sample in range(5)] == [image.tobytes() for image in large_images()]


def test_the_extra_fields_include_empty_ones_with_the_pointer_of_an_image(ffcv_betons: Path) -> None:
    """What the test above is about is really in the file."""
    beton = Beton.open(ffcv_betons / "extra.beton")
    table = beton.tables.allocations
    empty = table["ptr"][table["size"] == 0]
    assert np.isin(empty, beton.offsets).any()
    assert (beton.nbytes > 0).all()


def test_a_beton_passes_through_open(write_beton: WriteBeton) -> None:
    beton = Beton.open(str(write_beton(photos())))
    assert Beton.open(beton) is beton


def test_class_names_and_common_size(write_beton: WriteBeton) -> None:
    path = write_beton([photo_like(16, 16, 0, 0)] * 3)
    names = path.with_name(path.name + ".json")
    names.write_text(json.dumps({"classes": ["a", "b", "c", "d"]}))
    beton = Beton.open(path)
    assert beton.class_names == ("a", "b", "c", "d") and beton.num_classes == 4 and beton.common_size == 16
    names.unlink()
    assert Beton.open(path).class_names is None


@pytest.mark.fault("11.3 broken class names")
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no json", b"[1]", b"{}", b'{"classes": null}', b'{"classes": 3}', b'{"classes": "abc"}'),
        *(b'{"classes": []}', b'{"classes": [1, 2, 3]}', b'{"classes": ["a", "\xe9", "c"]}', b"[" * 100_000),
    ],
)
def test_broken_class_names_are_an_error_not_none(write_beton: WriteBeton, content: bytes) -> None:
    path = write_beton([photo_like(16, 16, 0, 0)] * 3)
    path.with_name(path.name + ".json").write_bytes(content)
    assert "correct that file, or remove it" in assert_refused(path)


@pytest.mark.fault("11.3 class names in UTF-8")
def test_class_names_are_utf8_whatever_the_locale(write_beton: WriteBeton) -> None:
    path = write_beton([photo_like(16, 16, 0, 0)] * 3)
    path.with_name(path.name + ".json").write_bytes('{"classes": ["Zürich", "猫", "c"]}'.encode())
    script = f"from fastlabel.dataset.beton import Beton; print(ascii(Beton.open({str(path)!r}).class_names))"
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ascii(("Zürich", "猫", "c"))


# --- What is refused ---------------------------------------------------------------------------------------------


def assert_refused(path: Path) -> str:
    """DatasetError and no other, in one line that names the file."""
    with pytest.raises(DatasetError) as caught:
        Beton.open(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("name", ["jpg", "raw", "extra", "ours"])
def test_truncated_anywhere(ffcv_betons: Path, write_beton: WriteBeton, tmp_path: Path, name: str) -> None:
    path = write_beton(photos()) if name == "ours" else copy(ffcv_betons / f"{name}.beton", tmp_path)
    size = path.stat().st_size
    assert Beton.open(path).num_samples > 0
    kept = {size - lost for lost in range(1, 101)} | {size * part // 40 for part in range(40)}
    table = int(np.fromfile(path, HEADER, 1)["alloc_table_ptr"][0])
    kept |= set(range(table, size, 8)) | set(range(0, 3000, 97)) | {1, 2, 23, 24, 25}
    for length in sorted(kept, reverse=True):
        os.truncate(path, length)
        assert_refused(path)


def test_a_file_with_more_than_the_header_says(write_beton: WriteBeton) -> None:
    path = write_beton(photos())
    with open(path, "ab") as file:
        file.write(b"\0" * 24)
    assert "truncated" in assert_refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\2", "it has 1 bytes"),
        (b"PK\3\4" + bytes(5000), "not an FFCV .beton file of version 2: it has version 19280"),
        (b"\xff\xd8\xff\xe0" * 500, "not an FFCV .beton file"),
        (b"\1\0" + bytes(5000), "it has version 1"),
        (b"\2\0" + bytes(5000), "holds no samples"),
        (b"\2\0" * 3000, "truncated"),
        (b"\2\0" + b"\xff" * 5000, "truncated"),
    ],
)
def test_what_is_no_beton(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.beton"
    path.write_bytes(content)
    assert message in assert_refused(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no dataset file" in assert_refused(tmp_path / "missing.beton")
    assert "no dataset file" in assert_refused(tmp_path)


@pytest.mark.parametrize("name", ["no-label", "float-label", "other-names"])
def test_a_beton_without_the_two_fields(ffcv_betons: Path, name: str) -> None:
    message = assert_refused(ffcv_betons / f"{name}.beton")
    assert "needs 'image' (RGBImageField) and 'label' (IntField)" in message


def test_a_beton_with_a_field_of_its_authors_own(ffcv_betons: Path) -> None:
    assert "cannot read the fields" in assert_refused(ffcv_betons / "own-field.beton")


def test_an_unfinished_beton(write_beton: WriteBeton) -> None:
    """FFCV writes the pointer to its table last."""
    path = write_beton(photos())
    patch(path, HEADER.fields["alloc_table_ptr"][1], bytes(8))  # type: ignore[index]
    assert "never finished" in assert_refused(path)


@pytest.mark.parametrize("name", ["num_samples", "num_fields"])
@pytest.mark.parametrize("value", [1, 3, 4, 7, 200, 60000])
def test_a_header_that_says_something_else(write_beton: WriteBeton, name: str, value: int) -> None:
    path = write_beton(photos())
    dtype, at = HEADER.fields[name][:2]  # type: ignore[index]
    patch(path, at, np.array(value, dtype).tobytes())
    assert_refused(path)


def test_a_sample_outside_the_allocation_table(write_beton: WriteBeton) -> None:
    path = write_beton(photos())
    beton = Beton.open(path)
    pointer = beton.offsets[3].astype("<u8").tobytes()
    at = path.read_bytes().index(pointer)
    for new in (b"\0" * 8, b"\xff" * 8, (beton.offsets[3] + 1).astype("<u8").tobytes()):
        patch(path, at, new)
        assert "the image of sample 3 (1 samples in all) is not in the file's allocation table" in assert_refused(path)


@pytest.mark.fault("11.11 offsets of 2^63")
@pytest.mark.parametrize("offset", [2**63, 2**63 + 5, 2**64 - 1, 2**64 - 24])
@pytest.mark.parametrize("size", [1, 2**63, 2**64 - 1])
def test_offsets_and_sizes_that_no_file_has(write_beton: WriteBeton, offset: int, size: int) -> None:
    """The same in the index and in the allocation table: neither contradicts the other."""
    path = write_beton(photos())
    rows = 24 + 2 * HEADER_OF_FIELD
    patch(path, rows + 24 * 2 + 5, np.array(offset, "<u8").tobytes())
    patch(path, path.stat().st_size - 24 * 3 + 8, np.array([offset, size], "<u8").tobytes())
    assert "the image of sample 2 (1 samples in all) is not in the file's allocation table" in assert_refused(path)


def test_an_image_without_pixels(write_beton: WriteBeton) -> None:
    path = write_beton(photos())
    patch(path, 24 + 2 * HEADER_OF_FIELD + 24 * 3 + 1, b"\0\0")
    assert "the image of sample 3 (1 samples in all) has no pixels" in assert_refused(path)


def test_an_image_that_reaches_into_the_table(write_beton: WriteBeton) -> None:
    path = write_beton(photos())
    size = path.stat().st_size
    patch(path, size - 8, np.array(10**6, "<u8").tobytes())
    assert "sample 4" in assert_refused(path)


@pytest.mark.parametrize("seed", range(3))
def test_any_byte_of_the_tables_may_be_wrong(write_beton: WriteBeton, seed: int) -> None:
    """Opened or refused with our error; never another exception."""
    path = write_beton(photos())
    whole = path.read_bytes()
    random = np.random.default_rng(seed)
    table = len(whole) - 24 * 5
    for _ in range(150):
        at = int(random.choice([random.integers(24), random.integers(24, 2200), random.integers(table, len(whole))]))
        patch(path, at, bytes([whole[at] ^ int(random.integers(1, 256))]))
        try:
            Beton.open(path)
        except DatasetError as error:
            assert "\n" not in str(error)
        patch(path, at, whole[at : at + 1])


# --- The fingerprint -----------------------------------------------------------------------------------------------


def test_the_fingerprint_ignores_the_layout_and_nothing_else(ffcv_betons: Path, tmp_path: Path) -> None:
    paths = {name: copy(ffcv_betons / f"{name}.beton", tmp_path) for name in ("jpg", "pages", "other-label", "raw")}
    assert paths["jpg"].read_bytes() != paths["pages"].read_bytes()
    prints = {name: Beton.open(path).fingerprint() for name, path in paths.items()}
    assert prints["jpg"] == prints["pages"]
    assert len(set(prints.values())) == 3
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in prints.values())


def test_golden_fingerprint(write_beton: WriteBeton) -> None:
    """Stores keep it: it must never change for the same content. Raw, so that no encoder is involved."""
    images = [np.full((4, 6, 3), index % 256, np.uint8) for index in range(300)]
    golden = "e3b4cd0635eefe4a90be364b442be16c958e960bc50b6f812a48343874488b2f"
    assert Beton.open(write_beton(images, "raw")).fingerprint() == golden


def test_each_byte_counts(write_beton: WriteBeton) -> None:
    path = write_beton(photos(), "raw")
    beton = Beton.open(path)
    known = beton.fingerprint()
    for at in (beton.offsets[0], beton.offsets[4] + beton.nbytes[4] - 1):
        old = path.read_bytes()[at]
        patch(path, int(at), bytes([old ^ 1]))
        assert Beton.open(path).fingerprint(trust_cache=False) != known
        patch(path, int(at), bytes([old]))
    assert Beton.open(path).fingerprint(trust_cache=False) == known


def test_images_in_another_order_are_another_dataset(write_beton: WriteBeton) -> None:
    image, other = photo_like(20, 20, 0, 0), photo_like(20, 20, 1, 1)
    one = Beton.open(write_beton([image, other], name="one"))
    two = Beton.open(write_beton([other, image], name="two"))
    assert one.fingerprint() != two.fingerprint()


def test_a_turned_image_is_another_image(write_beton: WriteBeton) -> None:
    """The same bytes and the same number of pixels, but 4x6 instead of 6x4."""
    flat = np.zeros((4, 6, 3), np.uint8)
    one = Beton.open(write_beton([flat], "raw", "one"))
    two = Beton.open(write_beton([flat.transpose(1, 0, 2)], "raw", "two"))
    assert one.payload(0) == two.payload(0) and one.fingerprint() != two.fingerprint()


def test_the_fingerprint_is_kept_while_the_file_is_the_same(
    write_beton: WriteBeton, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_beton(photos(), "raw")
    hashed: list[Path] = []
    original = Beton._hash

    def count(self: Beton, progress: bool) -> str:
        hashed.append(self.path)
        return original(self, progress)

    monkeypatch.setattr(Beton, "_hash", count)
    first = Beton.open(path).fingerprint()
    assert Beton.open(path).fingerprint() == first and len(hashed) == 1
    assert sorted(file.name for file in path.parent.iterdir()) == ["data.beton", f"data.beton{KEPT}"]

    at = int(Beton.open(path).offsets[2])
    status = path.stat()
    patch(path, at, b"\x7f\x80\x81")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = Beton.open(path).fingerprint()
    assert second != first and len(hashed) == 2
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))  # older counts as changed too
    assert Beton.open(path).fingerprint() == second and len(hashed) == 3

    kept = path.with_name(path.name + KEPT)
    right = kept.read_text()
    known = json.loads(right)
    known["file"]["nbytes"] += 1
    broken = ["", "{", "[]", "null", json.dumps({"file": known["file"]}), json.dumps(known), "\xff"]
    broken += [json.dumps({"file": json.loads(right)["file"]}), json.dumps(json.loads(right) | {"tables": "0" * 64})]
    for text in broken:
        kept.write_text(text, encoding="latin-1")
        assert Beton.open(path).fingerprint() == second
    assert len(hashed) == 3 + len(broken)
    assert kept.read_text() == right


def rewrite_unseen(path: Path, at: int, new: bytes) -> None:
    """Write into a file as `cp -p` and rsync do: size and modification time stay."""
    before = path.stat()
    patch(path, at, new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.fault("11.1 a replaced dataset")
@pytest.mark.parametrize("in_place", [True, False])
def test_a_replaced_file_has_another_fingerprint(write_beton: WriteBeton, in_place: bool) -> None:
    """Of the same size and modification time, with only one pixel changed: in place, or by a renamed copy."""
    path = write_beton(photos(), "raw")
    first, at = Beton.open(path).fingerprint(), int(Beton.open(path).offsets[2])
    target = path if in_place else Path(shutil.copy2(path, path.with_name("copy")))
    rewrite_unseen(target, at, b"\x7f\x80\x81")
    if not in_place:
        os.replace(target, path)
    assert Beton.open(path).fingerprint() == Beton.open(path).fingerprint(trust_cache=False) != first


@pytest.mark.fault("11.1 a replaced dataset")
def test_a_kept_fingerprint_is_of_these_tables_too(write_beton: WriteBeton) -> None:
    """Were even the change time the same, other labels would be noticed."""
    path = write_beton(photos(), "raw")
    kept, beton = path.with_name(path.name + KEPT), Beton.open(path)
    first = beton.fingerprint()
    rows = 24 + 2 * HEADER_OF_FIELD
    rewrite_unseen(path, rows + 16, b"\2")  # the label of sample 0
    changed = Beton.open(path)
    assert changed.targets.tolist() == [2, *beton.targets.tolist()[1:]]
    known = json.loads(kept.read_text())
    kept.write_text(json.dumps(known | {"file": changed.file.state.to_dict()}))
    assert changed.fingerprint() != first


@pytest.mark.fault("11.1 rewritten while open")
def test_a_file_that_is_written_to_while_it_is_open_is_an_error(write_beton: WriteBeton) -> None:
    path = write_beton(photos(), "raw")
    at, whole = int(Beton.open(path).offsets[1]), path.read_bytes()
    for change in (
        lambda: patch(path, at, b"\1\2\3"),
        lambda: rewrite_unseen(path, at, b"\4\5\6"),
        lambda: os.truncate(path, path.stat().st_size - 1),
        lambda: os.truncate(path, 100),
    ):
        path.write_bytes(whole)
        beton = Beton.open(path)
        beton.fingerprint()
        beton.check_unchanged()
        change()
        with pytest.raises(DatasetError, match=r"data\.beton was (changed|cut short) while it was open"):
            beton.check_unchanged()
    with pytest.raises(DatasetError, match=r"data\.beton was cut short while it was open"):
        beton.payload(3)
    with pytest.raises(DatasetError, match="while it was open"):
        beton.fingerprint(trust_cache=False)


def test_a_link_a_move_and_a_chmod_change_nothing(write_beton: WriteBeton) -> None:
    """They set the change time as well, but not what is in the file."""
    path = write_beton(photos(), "raw")
    beton = Beton.open(path)
    known = beton.fingerprint()
    os.link(path, path.with_name("link"))
    beton.check_unchanged()
    path.chmod(0o444)
    moved = path.rename(path.with_name("moved.beton"))
    beton.check_unchanged()
    assert beton.file.state == beton.file.state_now()
    assert Beton.open(moved).fingerprint() == known


# --- What stands beside it ---------------------------------------------------------------------------------------


@pytest.mark.fault("11.9 FIFOs and devices")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["FIFO", "device", "sparse", "folder"])
@pytest.mark.parametrize("suffix", ["", ".json", KEPT])
def test_only_regular_files_of_a_likely_size_are_read(write_beton: WriteBeton, what: str, suffix: str) -> None:
    path = write_beton(photos())
    known, place = Beton.open(path).fingerprint(), path.with_name(path.name + suffix)
    place.unlink(missing_ok=True)
    if what == "FIFO":
        os.mkfifo(place)
    elif what == "device":
        place.symlink_to("/dev/zero")
    elif what == "folder":
        place.mkdir()
    else:
        place.touch()
        os.truncate(place, 3 << 30)
    if suffix == KEPT:  # it can be computed again
        assert Beton.open(path).fingerprint() == known
    else:
        assert str(place) in assert_refused(path)


def test_a_folder_that_cannot_be_written_is_no_error(write_beton: WriteBeton, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who can write everywhere."""
    path = write_beton(photos())

    real_open = os.open

    def refuse(file: Path, flags: int, *options: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(file))
        return real_open(file, flags, *options)

    monkeypatch.setattr(os, "open", refuse)
    assert len(Beton.open(path).fingerprint()) == 64
    monkeypatch.undo()

    def no_space(file: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    assert len(Beton.open(path).fingerprint()) == 64
    assert [file.name for file in path.parent.iterdir()] == ["data.beton"]


def test_a_read_only_file_system_is_no_error(write_beton: WriteBeton, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_beton(photos())

    real_open = os.open

    def read_only(file: Path, flags: int, *options: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(30, "Read-only file system", str(file))
        return real_open(file, flags, *options)

    monkeypatch.setattr(os, "open", read_only)
    assert len(Beton.open(path).fingerprint()) == 64


def test_the_fingerprint_of_many_chunks(write_beton: WriteBeton, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many samples a task hashes is no part of the definition."""
    beton = Beton.open(write_beton(photos(11), "raw"))
    whole = beton.fingerprint()
    for chunk in (1, 3, 11):
        monkeypatch.setattr(fingerprint_module, "HASH_CHUNK", chunk)
        assert beton.fingerprint(trust_cache=False) == whole
