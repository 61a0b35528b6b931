"""View policies as one says them: by name, with options, in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlabel.errors import InputError
from fastlabel.views import Mixing, PixelOperations, ViewPolicy, ViewSpec

TOML = """
name = "random-resized-crop"
size = 32
scale = [0.25, 1.0]

[pixels]
gray = 0.25
blur = 0.5
blur_sigma = [0.5, 1.5]
brightness = 0.3
patches = 2

[mixing]
cutmix = 1.0
block = 16
"""


def test_names_and_options() -> None:
    assert ViewSpec.of("pad-crop").policy(32) == ViewPolicy.pad_crop(32)
    assert ViewSpec("pad-crop", padding=2, flip=False).policy(32) == ViewPolicy.pad_crop(32, padding=2, flip=False)
    assert ViewSpec("center", fraction=(1, 1)).policy(8) == ViewPolicy.center(8, fraction=(1, 1))
    wanted = ViewPolicy.random_resized_crop(24, seed=3, scale=(0.5, 0.9), ratio=(1, 1))
    assert ViewSpec(size=24, seed=3, scale=(0.5, 0.9), ratio=(1, 1)).policy(99) == wanted
    assert ViewSpec("identity").policy(8) == ViewPolicy.identity(8)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "views.toml"
    path.write_text(TOML)
    spec = ViewSpec.of(path)
    assert spec.pixels == PixelOperations.of(gray=0.25, blur=0.5, blur_sigma=(0.5, 1.5), brightness=0.3, patches=2)
    assert spec.mixing == Mixing.of(cutmix=1.0, block=16) and spec.policy(224).size == 32
    assert spec.changed(size=64, seed=None).policy(224).size == 64
    policy = spec.policy(224)
    assert ViewPolicy.from_dict(policy.to_dict()) == policy
    (tmp_path / "views.json").write_text('{"name": "pad-crop", "padding": 1}')
    assert ViewSpec.of(tmp_path / "views.json").policy(32) == ViewPolicy.pad_crop(32, padding=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('nam = "center"', r"a view policy has no 'nam'; it has name, size"),
        ('name = "centre"', r"unknown view policy 'centre'"),
        ('name = "center"\npadding = 4', r"padding is a parameter of pad-crop views, and these are center"),
        ("scale = [0.5]", r"scale is \[0.5\], expected two numbers"),
        ("scale = [0, 1]", r"scale \(0, 1\) must lie above 0"),
        ("flip = 1", r"flip"),
        ("[mixing]\ncutmax = 1", r"mixing has no 'cutmax'; it has cutmix, mixup"),
        ("[pixels]\ngray = 2", r"gray is 2, expected a number from 0 to 1"),
        ("[pixels]\ngray = 0.6\nblur = 0.6", r"together are above 1: a crop gets at most one"),
        ("[pixels]\npatches = 5", r"a crop of 32 pixels has no 5 equal patches in a row"),
        ("[pixels]\nblur = 1\nblur_sigma = [3, 9]", r"blur_sigma is 3 to 9"),
        ("[pixels]\nblur = 1\nblur_sigma = [1e-200, 1]", r"expected 0.05 to 2.5 pixels"),
        ('scale = ["0.2", "1"]', r"scale is \['0.2', '1'\], expected two numbers"),
        (f"scale = [0, 1{'0' * 400}]", r"expected two numbers"),
        ("[mixing]\ncutmix = true", r"probability of cutmix is True"),
        ("[pixels]\nerase = 1\nerase_ratio = [0, 9]", r"erase_ratio is 0 to 9"),
        ("[pixels]\nerase = 1\nerase_area = [0.5, 0.2]", r"expected it in order"),
        ("[pixels]\nfill = [0, 0]\ngray = 1", r"fill has 2 values, expected 3"),
        ("[pixels]\nfill = [0, 0, 256]\ngray = 1", r"fill 256 must be 0 to 255"),
        ("[pixels]", r"change nothing: leave them out"),
        ("pixels = 3", r"pixels is 3, expected a table"),
        ("size = ", r"expected|Invalid"),
        ("ratio = [1, 1e300]", r"must be positive, in order, and below 65536"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "views.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        ViewSpec.of(path).policy(32)
    assert str(caught.value).startswith(f"view policy {path}: ")


def test_what_is_no_file_and_no_name(tmp_path: Path) -> None:
    for given, message in (
        ("random", "unknown view policy 'random'; choose one of random-resized-crop"),
        (tmp_path / "lost.toml", "cannot be read: No such file"),
        (tmp_path, "unknown view policy"),
    ):
        with pytest.raises(InputError, match=message):
            ViewSpec.of(given)
