"""Our decoder in FFCV's own Loader: the pixels of ImageLoader, for any pipeline that FFCV's users have."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import ImageDecodeError, InputError
from fastlabel.images.ffcv_api import Compiler, IntDecoder, Loader, OrderOption
from fastlabel.images.ffcv_decoder import ViewsDecoder
from fastlabel.images.loader import ImageLoader
from fastlabel.views import ViewPolicy
from tests.betons import WriteBeton

from ffcv.transforms import Squeeze, ToTensor, ToTorchImage  # isort: skip

pytestmark = [pytest.mark.timeout(200), pytest.mark.slow]  # FFCV compiles its own pipelines
POLICY = ViewPolicy.random_resized_crop(24, seed=5)
COUNT = 16


@pytest.fixture(autouse=True)
def _thread_counts() -> Any:
    """FFCV's Loader sets them for the whole process."""
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    Compiler.set_num_threads(1)
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
    gc.collect()


def ffcv_loader(path: Path, decoder: ViewsDecoder, *transforms: Any, **options: Any) -> Loader:
    defaults = {"batch_size": 5, "num_workers": 2, "order": OrderOption.SEQUENTIAL, "drop_last": False}
    pipelines = {"image": [decoder, *transforms], "label": [IntDecoder(), ToTensor(), Squeeze()]}
    fields = {name: None for name in Beton.open(path).tables.fields if name not in pipelines}
    return Loader(str(path), **defaults | options, pipelines=pipelines | fields)


def read(loader: Loader) -> tuple[NDArray[np.uint8], list[int]]:
    batches = [(torch.as_tensor(images).clone(), labels.clone().reshape(-1)) for images, labels in loader]
    return torch.cat([images for images, _ in batches]).numpy(), torch.cat([labels for _, labels in batches]).tolist()


def wanted(path: Path, views: list[int], policy: ViewPolicy = POLICY) -> NDArray[np.uint8]:
    loader = ImageLoader(path, policy, 5)
    ids = np.arange(loader.beton.num_samples)
    return np.concatenate([batch.images.numpy() for batch in loader.epoch(ids, views)])


@pytest.mark.parametrize(("num_workers", "os_cache"), [(1, False), (2, True)])
def test_pixels_are_those_of_our_loader(ffcv_betons: Path, num_workers: int, os_cache: bool) -> None:
    path = ffcv_betons / "smart.beton"
    decoder = ViewsDecoder(POLICY, 3)
    loader = ffcv_loader(path, decoder, num_workers=num_workers, os_cache=os_cache)
    for view in (3, 0, 3):
        decoder.show(view)
        images, labels = read(loader)
        assert np.array_equal(images, wanted(path, [view])[:, 0])
        assert labels == [index % 5 for index in range(COUNT)]
    decoder.check()


def test_several_views_and_a_random_order(ffcv_betons: Path) -> None:
    path, indices = ffcv_betons / "jpg.beton", np.array([9, 2, 11, 3, 0, 7], np.uint64)
    decoder = ViewsDecoder(POLICY, [1, 5])
    loader = ffcv_loader(path, decoder, indices=indices, order=OrderOption.RANDOM, seed=1, batch_size=4)
    order = np.concatenate([loader.traversal_order.sample_order(0)]).astype(int)
    assert sorted(order.tolist()) == sorted(indices.tolist()) and order.tolist() != indices.tolist()
    images, labels = read(loader)
    assert images.shape == (6, 2, 24, 24, 3) and labels == [sample % 5 for sample in order]
    assert np.array_equal(images, wanted(path, [1, 5])[order])


def test_transforms_of_ffcv_follow_it(ffcv_betons: Path) -> None:
    path = ffcv_betons / "raw.beton"
    loader = ffcv_loader(path, ViewsDecoder(POLICY, 2), ToTensor(), ToTorchImage())
    for images, _ in loader:
        assert isinstance(images, torch.Tensor) and images.shape[1:] == (3, 24, 24)
        break
    del loader
    images, _ = read(ffcv_loader(path, ViewsDecoder(POLICY, 2), ToTensor(), ToTorchImage()))
    assert np.array_equal(images.transpose(0, 2, 3, 1), wanted(path, [2])[:, 0])


def test_a_broken_image_is_black_and_an_error_that_names_it(write_beton: WriteBeton) -> None:
    path = write_beton([np.full((30, 30, 3), 200, np.uint8)] * 12)
    beton = Beton.open(path)
    for sample in (9, 4):
        with open(path, "r+b") as file:
            file.seek(int(beton.offsets[sample]) + 20)
            file.write(bytes(100))
    decoder = ViewsDecoder(POLICY)
    images, _ = read(ffcv_loader(path, decoder))
    assert [sample for sample in range(12) if not images[sample].any()] == [4, 9]
    with pytest.raises(ImageDecodeError, match=r"sample 4 \(2 in all\) cannot be decoded: its JPEG is broken"):
        decoder.check()
    decoder.check()  # said once


def test_what_it_refuses(ffcv_betons: Path) -> None:
    decoder = ViewsDecoder(POLICY, [0, 1])
    with pytest.raises(InputError, match="1 views instead of 2"):
        decoder.show(3)
    decoder.check()  # nothing was decoded yet
    ffcv_loader(ffcv_betons / "jpg.beton", decoder)
    with pytest.raises(InputError, match="belongs to one file"):
        ffcv_loader(ffcv_betons / "large.beton", decoder)


def test_a_loader_of_ffcv_that_was_there_first_breaks_no_kernel(ffcv_betons: Path) -> None:
    """ffcv makes Numba's type of uint8 vectors read-only: what is compiled after that could not write one."""
    code = f"""
        import warnings
        warnings.simplefilter("ignore")
        import torch
        from ffcv.loader import Loader
        path = {str(ffcv_betons / "jpg.beton")!r}
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        Loader(path, batch_size=4, num_workers=1, os_cache=True,
               pipelines={{"image": [CenterCropRGBImageDecoder((8, 8), 1)], "label": None}})
        import numba
        import numpy as np
        from fastlabel.images.ffcv_decoder import ViewsDecoder
        from fastlabel.views import ViewPolicy
        loader = Loader(path, batch_size=4, num_workers=2, os_cache=True, drop_last=False,
                        pipelines={{"image": [ViewsDecoder(ViewPolicy.center(24))], "label": None}})
        assert sum(len(images) for (images,) in loader) == {COUNT}
        assert numba.uint8[::1].mutable

        @numba.njit
        def write(out):
            out[0] = 1

        write(np.zeros(3, np.uint8))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert os.path.exists(ffcv_betons / "jpg.beton")


def test_our_own_loader_does_without_ffcv(ffcv_betons: Path) -> None:
    code = f"""
        import sys, numpy as np
        from fastlabel.images.device_loader import make_image_loader
        from fastlabel.views import ViewPolicy
        loader = make_image_loader({str(ffcv_betons / "jpg.beton")!r}, ViewPolicy.random_resized_crop(24), 4)
        assert sum(len(batch.ids) for batch in loader.epoch(np.arange({COUNT}), [0])) == {COUNT}
        print(sorted(name for name in sys.modules if name.split(".")[0] in ("ffcv", "cv2")))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
