"""Every benchmark runs once at a tiny size, so that it cannot rot. No time is asserted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fastlabel.benchmarks import (
    allocator,
    device_crops,
    labels_share,
    loss,
    mixed_views,
    pixel_operations,
    transform_loss,
    views_per_image,
)
from fastlabel.benchmarks.harness import alternate
from fastlabel.benchmarks.memory import peak_bytes


@pytest.mark.slow
def test_labels_share(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--count", "16", "--size", "32", "--k", "4", "--views", "2", "--batch-size", "8", "--rounds", "2"]
    result = CliRunner().invoke(labels_share.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "32 crops of made images" in result.output
    figures = json.loads(out.read_text())
    assert figures["labels"]["rounds"] == 2 and figures["share"] > 0
    assert figures["machine"]["versions"]["zarr"] and figures["machine"]["cores"]


@pytest.mark.slow
def test_views_per_image(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--count", "16", "--size", "32", "--k", "4", "--views", "4", "--most", "4", "--batch-size", "8"]
    result = CliRunner().invoke(
        views_per_image.main, [*sizes, "--rounds", "2", "--json", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0 and "4 views per image: " in result.output
    figures = json.loads(out.read_text())
    assert figures["crops"] == 64 and {figures[f"views_{M}"]["rounds"] for M in (1, 2, 4)} == {2}


@pytest.mark.slow
def test_mixed_views(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--count", "8", "--size", "32", "--k", "4", "--views", "2", "--batch-size", "8", "--rounds", "1"]
    result = CliRunner().invoke(mixed_views.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "2 views per image, CutMix or MixUp: " in result.output
    assert json.loads(out.read_text())["MixUp, 1 views"]["rounds"] == 1


@pytest.mark.slow
def test_pixel_operations(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--crops", "2", "--size", "16", "--rounds", "1", "--json", str(out)]
    result = CliRunner().invoke(pixel_operations.main, sizes, catch_exceptions=False)
    assert result.exit_code == 0 and "blur, torchvision: " in result.output
    assert json.loads(out.read_text())["2 x 2 patches, ours"]["rounds"] == 1


@pytest.mark.slow
def test_device_crops(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--count", "6", "--size", "32", "--views", "1,2", "--batch-size", "4", "--rounds", "2", "--device", "cpu"]
    result = CliRunner().invoke(device_crops.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "2 views of 6 images on cpu, crops/s: op " in result.output
    figures = json.loads(out.read_text())
    assert {figures[f"{name}_{V}"]["rounds"] for name in ("op", "normalised", "path", "cpu") for V in (1, 2)} == {2}


@pytest.mark.slow
def test_loss(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = [
        "--batches",
        "8",
        "--classes",
        "100,300",
        "--kept",
        "4",
        "--device",
        "cpu",
        "--rounds",
        "2",
        "--no-compile",
    ]
    result = CliRunner().invoke(loss.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "B=8 C=300 K=4" in result.output
    cells = json.loads(out.read_text())["cells"]
    assert [cell["C"] for cell in cells] == [100, 300]
    for cell in cells:
        ways = {"fused", "forward", "dense", "fkd", "copy"}
        assert cell["seconds"].keys() == ways == cell["processor_seconds"].keys()
        assert cell["times_faster_than"].keys() == {"dense", "fkd"} and cell["logits_bytes"] == 4 * 8 * cell["C"]


@pytest.mark.slow
def test_ways_to_compute_the_loss_agree() -> None:
    cases, logits = loss.make_cases(8, 100, 4, torch.device("cpu"), torch.float32, ["dense", "fkd"])
    fused, dense, fkd = (cases[name]() for name in ("fused", "dense", "fkd"))
    torch.testing.assert_close(fused, dense, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fused, fkd, rtol=1e-5, atol=1e-7)
    assert logits.grad is None  # or the next measurement would start with it


def test_ways_that_differ_are_not_timed() -> None:
    logits = torch.randn(8, 100, requires_grad=True)
    expected = lambda: torch.logsumexp(logits, 1).mean()  # noqa: E731
    loss.check_agreement(expected, expected, logits)
    for other in (lambda: 1.01 * expected(), lambda: expected() + logits[0, 0] - logits[0, 0].detach()):
        with pytest.raises(AssertionError):
            loss.check_agreement(other, expected, logits)


@pytest.mark.slow
@pytest.mark.skipif("MALLOC_MMAP_MAX_" in os.environ, reason="the environment tells glibc to keep freed memory")
def test_peak_memory_is_that_of_the_call() -> None:
    cpu, size = torch.device("cpu"), 128 << 20  # each beyond 32 MiB: glibc always gives such memory back at once
    peak = peak_bytes(lambda: torch.ones(size // 8).sum() + torch.ones(size // 4).sum(), cpu)
    # The first tensor, half as large, is gone by the time of the second.
    assert peak is None or 0.98 * size < peak < 1.2 * size


def test_cases_alternate() -> None:
    order: list[str] = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert "".join(order) == "abababab"
    assert timings["a"].rounds == 3 and timings["a"].p20 <= timings["a"].median <= timings["a"].p80


@pytest.mark.slow
def test_allocator() -> None:
    found = allocator.measure(allocator.training, ("convnet-d1-w8", 1), 256, 1)
    assert found["images"] == 256 and found["seconds"].keys() == found["peak_bytes"].keys() == {"default", "kept"}
    assert min(found["images_per_second"].values()) > 0 and "times as fast" in allocator._line("training", found)


@pytest.mark.slow
def test_transform_loss() -> None:
    cases = transform_loss.make_cases(4, 50, 8, 4.0)  # which compares loss and gradient with the dense ones
    assert {name: tuple(case().shape) for name, case in cases.items()} == dict.fromkeys(cases, (4, 50))
    assert list(cases) == ["fused", "dense", "given", "product"]
