"""Files as SRe2L's relabel scripts publish them, written by torch alone: no code of the importer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def write_fkd_mix(
    root: Path,
    heights: np.ndarray,
    widths: np.ndarray,
    targets: np.ndarray,
    num_classes: int,
    *,
    epochs: int = 2,
    batch_size: int = 8,
    size: int = 16,
    mix: str | None = "cutmix",
    half: bool = False,
    seed: int = 42,
) -> list[list[dict[str, np.ndarray]]]:
    """Write `root`/epoch_E/batch_B.tar, and give, batch by batch, the ids, pixel boxes, partners and logits in it."""
    random = np.random.default_rng(5)
    generator = torch.Generator()
    generator.manual_seed(seed)
    dataset = torch.utils.data.TensorDataset(torch.arange(len(targets)))
    sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
    batches = torch.utils.data.BatchSampler(sampler, batch_size, drop_last=False)
    written: list[list[dict[str, np.ndarray]]] = []
    for epoch in range(epochs):
        (root / f"epoch_{epoch}").mkdir(parents=True)
        written.append([])
        for number, rows in enumerate(batches):
            ids = np.array(rows)
            high, wide = heights[ids], widths[ids]
            h, w = random.integers(4, high + 1), random.integers(4, wide + 1)
            i, j = random.integers(0, high - h + 1), random.integers(0, wide - w + 1)
            coords = torch.stack([torch.FloatTensor((a / b, c / d, e / b, f / d)) for a, b, c, d, e, f in
                                  zip(i, high, j, wide, h, w, strict=True)])  # fmt: skip
            flips = torch.from_numpy(random.random(len(ids)) < 0.5)
            partner, lam, box = np.arange(len(ids)), 1.0, None
            if mix:
                partner, lam = random.permutation(len(ids)), float(random.beta(1.0, 1.0))
            if mix == "cutmix":
                side, x, y = int(size * np.sqrt(1 - lam)), random.integers(size), random.integers(size)
                low, high_ = (
                    np.clip(v, 0, size) for v in ([x - side // 2, y - side // 2], [x + side // 2, y + side // 2])
                )
                box = [low[0], low[1], high_[0], high_[1]]  # NumPy's integers, as in the published code
            logits = random.normal(size=(len(ids), num_classes)).astype(np.float32)
            logits[np.arange(len(ids)), targets[ids]] += 4
            output = torch.from_numpy(logits).half() if half else torch.from_numpy(logits)
            config = [coords, flips, torch.from_numpy(partner) if mix else None, lam if mix else None, box, output]
            torch.save(config, root / f"epoch_{epoch}" / f"batch_{number}.tar")
            boxes = np.stack([i, j, h, w, flips.numpy()], axis=1)
            written[-1].append({"ids": ids, "boxes": boxes, "partner": ids[partner], "logits": output.float().numpy(),
                                "box": np.array([0, 0, size, size] if box is None else box), 
                                "lam": np.array(lam)})  # fmt: skip
    return written
