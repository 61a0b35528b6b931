"""The table of a real teacher's labels, on made logits: formats of others are written, read and drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from fastlabel.benchmarks import real_teacher
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.transform_codec import TransformCodec


def test_the_formats_of_others_are_written_measured_and_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    logits_NC = 3 * torch.randn(240, 12) @ torch.randn(12, 130) / 12**0.5 + 0.1 * torch.randn(240, 130)
    codecs = TopKCodec(100, 130), TransformCodec.of(TransformBasis.from_logits(logits_NC, 12), 4, 1.0)
    ours = [
        real_teacher._stored(name, codec, logits_NC, tmp_path)
        for name, codec in zip(("top 100", "top 4, 12 components"), codecs, strict=True)
    ]
    rows = {row.format: row for row in [*ours, *real_teacher._peers(logits_NC, tmp_path)]}
    assert rows["TinyViT, top 10"].bytes_per_crop == 44 < rows["FKD, top 5"].bytes_per_crop < 60
    assert 400 < rows["top 100, fp16 and int16"].bytes_per_crop < 420
    # What is kept is the same, but for the rounding of probabilities.
    one, other = rows["top 100"], rows["top 100, fp16 and int16"]
    assert abs(one.lost[0] - other.lost[0]) < 1e-2 and one.bytes_per_crop < other.bytes_per_crop
    assert rows["top 4, 12 components"].lost[3] < rows["TinyViT, top 10"].lost[3] < rows["FKD, top 5"].lost[3] <= 1.01
    axes = Figure().subplots()
    real_teacher.plot(list(rows.values()))(axes)
    assert len(axes.lines) == 15
