"""Class maps: every way to write one, and what is refused."""

from __future__ import annotations

import json

import pytest

from fastlabel.errors import InputError
from fastlabel.teachers.class_map import Classes, pairs_of, read_class_map, resolve_class_map

PETS = Classes("pets.beton", 3, ("bird", "cat", "dog"))
TEACHER = Classes("teacher t", 5, ("tench", "great white shark", "house finch", "tabby", "pug"))
WANTED = (2, 3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "0 2\n1 3\n2 4\n",
        "# ours: theirs\n\nbird: house finch\ncat: tabby\ndog: pug\n",
        "dog -> 4\n  cat -> tabby\nbird -> 2",
        "bird\thouse finch\ncat\t3\n2\tpug",
        '{"bird": 2, "cat": "tabby", "2": 4}',
        "[2, 3, 4]",
        '["house finch", "tabby", "pug"]',
    ],
)
def test_every_way_to_write_one(tmp_path, text):
    path = tmp_path / "map"
    path.write_text(text)
    assert resolve_class_map(read_class_map(path), PETS, TEACHER) == WANTED


def test_mappings_and_lists_from_python():
    assert resolve_class_map(pairs_of({0: 2, "cat": 3, 2: "pug"}), PETS, TEACHER) == WANTED
    assert resolve_class_map(pairs_of([2, 3, 4]), PETS, TEACHER) == WANTED


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({0: 2, 1: 3}, r"lacks 1 of the 3 classes of pets.beton: 2 \(dog\)"),
        ({}, r"lacks 3 of the 3 .*: 0 \(bird\), 1 \(cat\), 2 \(dog\)$"),
        ({0: 2, 1: 3, "dgo": 4}, "pets.beton has no class 'dgo': did you mean dog"),
        ({0: 2, 1: 3, 2: 5}, "teacher t has no class '5': give its name or a number below 5"),
        ({0: 2, 1: 3, 2: -1}, "teacher t has no class '-1'"),
        ({0: 2, 1: 3, 2: 1.0}, "teacher t has no class '1.0'"),
        ({0: 2, 1: 3, 2: True}, "teacher t has no class 'True'"),
        ({0: 2, "bird": 3, 2: 4}, "names class bird of pets.beton twice"),
        ({0: 2, 1: 3, 2: 3}, r"gives class 3 \(tabby\) of teacher t to more than one class of pets.beton"),
        ([2, 3, 4, 1], "pets.beton has no class '3'"),
    ],
)
def test_maps_that_are_none(pairs, message):
    with pytest.raises(InputError, match=message):
        resolve_class_map(pairs_of(pairs), PETS, TEACHER)


@pytest.mark.fault("11.3 class map by names that look like numbers")
def test_names_that_are_numbers_of_other_classes():
    """Folders 0, 1, 10, 2 sort as text: class "10" is number 2, class "2" is number 3. A name wins over a number."""
    folders = Classes("digits.beton", 4, ("0", "1", "10", "2"))
    numeric = Classes("teacher t", 4, ("0", "1", "2", "10"))
    by_name = {name: name for name in folders.names}
    assert resolve_class_map(pairs_of(by_name), folders, numeric) == (0, 1, 3, 2)
    assert resolve_class_map(pairs_of({"0": 0, "1": 1, "10": 2, "2": 3}), folders, TEACHER) == (0, 1, 2, 3)
    assert resolve_class_map(pairs_of([0, 1, 2, 3]), folders, numeric) == (0, 1, 2, 3)


def test_names_that_two_classes_share():
    cranes = Classes("teacher t", 3, ("crane", "crane", "kite"))
    with pytest.raises(InputError, match=r"'crane' is more than one class of teacher t \(0, 1\)"):
        cranes.number("crane")


def test_a_teacher_without_names_takes_numbers():
    with pytest.raises(InputError, match="has the classes 0 to 4, without names: 'tabby' is none"):
        resolve_class_map(pairs_of({0: 2, 1: "tabby", 2: 4}), PETS, Classes("teacher t", 5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"bird house finch\n", "line 1 of the class map .* must be a class of the dataset"),
        (b"bird: 1\ncat\n", "line 2 of the class map"),
        (b"bird:\n", "line 1 of the class map"),
        (b"{'bird': 1}", "is not JSON"),
        (b'{"bird": 1, "bird": 2}', "class 'bird' occurs twice"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_class_map(tmp_path / "map")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_class_map(tmp_path / "none")


def test_a_thousand_classes(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(list(range(999, -1, -1))))
    found = resolve_class_map(read_class_map(tmp_path / "map.json"), Classes("a", 1000), Classes("b", 1000))
    assert found == tuple(range(999, -1, -1))


def test_byte_order_marks_nesting_and_numbers_out_of_range(tmp_path):
    path = tmp_path / "map"
    path.write_bytes(b"\xef\xbb\xbf[2, 3, 4]")
    assert resolve_class_map(read_class_map(path), PETS, TEACHER) == WANTED
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="is not JSON"):
        read_class_map(path)
    with pytest.raises(InputError, match="teacher t has no class '10'"):
        resolve_class_map(pairs_of([0, 10]), Classes("a", 2), Classes("teacher t", 3, ("0", "10", "2")))
