"""What the Triton kernels are compiled to: registers, spills, occupancy, width of loads, instructions, bytes.

    python -m fastlabel.benchmarks.kernel_table [--capability 90] [--json OUT]

prints the table of docs/gpu.md; no GPU is needed. Instructions of an element are those of the loop over a row divided
by the elements that a thread handles in it; those outside of the loop are issued once a row by each thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported: nothing is compiled in its interpreter

import click
import torch

from fastlabel.benchmarks.kernel_code import Code, compiled
from fastlabel.kernels.decode_topk.triton import decode_topk_triton
from fastlabel.kernels.encode_topk.triton import encode_topk_triton
from fastlabel.kernels.soft_cross_entropy import Labels, Target
from fastlabel.kernels.soft_cross_entropy import triton as loss

Row = dict[str, Any]
B = 8  # rows; the code is that of any number from 2 on
GRID = [(C, K, second) for C in (1000, 21841) for K in (16, 128) for second in (False, True)]


def loss_rows(cases: Iterable[tuple[int, int, bool]], dtype: torch.dtype, capability: int) -> Iterator[Row]:
    """The loss of plane labels, alone or with a second label, at a label temperature other than 1."""
    for C, K, second in cases:
        labels = Labels(*_labels(K), torch.zeros(B, dtype=torch.int64))
        target = Target(labels, 2.0, labels, torch.zeros(B)) if second else Target(labels, 2.0)
        logits = torch.zeros(B, C, dtype=dtype)
        with compiled(capability) as codes:
            losses, stats = loss.forward(logits, target, 2.0)
            loss.backward(losses, logits, stats, 2.0)
        row_bytes, kept, left = C * dtype.itemsize, target.listed * 3, stats.shape[1] * stats.element_size()
        for code, moved in zip(codes, (row_bytes + kept + left, 2 * row_bytes + left), strict=True):
            name = "loss forward" if code is codes[0] else "loss backward"
            vectors = code.arguments["LANES"] // (32 * code.warps)
            elements = vectors * code.arguments["VEC"] if vectors else None
            yield _row(name, code, moved, elements, dtype=dtype, C=C, K=K, second=second)


def codec_rows(capability: int) -> Iterator[Row]:
    """Encoding of float32 logits, decoding to dense probabilities."""
    for C in (1000, 21841):
        with compiled(capability) as codes:
            encode_topk_triton(torch.zeros(B, C), *_labels(16))
        yield _row("encode", codes[0], 2 * C * 4 + 16 * 3 + 4, None, dtype=torch.float32, C=C, K=16)
        for K in (16, 128):
            with compiled(capability) as codes:
                decode_topk_triton(*_labels(K), 2.0, 0, None, torch.zeros(B, C))
            elements = codes[0].arguments["CHUNK"] // (32 * codes[0].warps)
            yield _row("decode", codes[0], C * 4 + K * 3 + 4, elements, dtype=torch.float32, C=C, K=K)


def _labels(k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes = torch.zeros(B, k, dtype=torch.uint8)
    return codes.to(torch.uint16), codes, torch.zeros(B, 2).to(torch.uint16)


def _row(name: str, code: Code, moved: int, elements: int | None, dtype: torch.dtype, **shape: Any) -> Row:
    """A line of the table; `elements` is how many a thread handles in the loop, or in all where there is none."""
    inside = _loop_over_the_row(code)
    issued = inside or len(code.instructions)
    return {
        "kernel": name,
        "dtype": str(dtype).removeprefix("torch."),
        **shape,
        "warps": code.warps,
        "registers": code.registers,
        "spilled_bytes": code.stack_bytes,
        "shared_bytes": code.shared_bytes,
        "occupancy": code.occupancy,
        "load_bytes": max(code.widths("LDG")),
        "store_bytes": max(code.widths("STG")),
        "instructions_per_element": round(issued / elements, 1) if elements else None,
        "instructions_outside": len(code.instructions) - inside,
        "bytes_per_row": moved,
    }


def _loop_over_the_row(code: Code) -> int:
    """Instructions of the loop that reads logits and takes exponentials; 0 where there is none."""
    for first, last in code.loops:
        names = [line.split()[0] for line in code.instructions[first : last + 1]]
        if "MUFU.EX2" in names and any(name.startswith("LDG") for name in names):
            return last + 1 - first
    return 0


def measure(capability: int) -> list[Row]:
    """All rows of the table."""
    narrow = [(C, 16, False) for C in (1000, 21841)]
    parts: list[Callable[[], Iterator[Row]]] = [
        lambda: loss_rows(GRID, torch.bfloat16, capability),
        lambda: loss_rows(narrow, torch.float32, capability),
        lambda: codec_rows(capability),
    ]
    return [row for part in parts for row in part()]


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    heads = (
        "kernel | logits | C | K | labels | warps | registers | spilled bytes | shared bytes | occupancy | "
        "bytes of a load, store | instructions an element | outside of the loop | bytes a row"
    )
    lines = [f"| {heads} |", "|" + " --- |" * (heads.count("|") + 1)]
    for row in rows:
        each = row["instructions_per_element"]
        cells = (
            row["kernel"],
            row["dtype"],
            f"{row['C']:,}",
            row["K"],
            2 if row.get("second") else 1,
            row["warps"],
            row["registers"],
            row["spilled_bytes"],
            row["shared_bytes"],
            f"{row['occupancy']:.0%}",
            f"{row['load_bytes']}, {row['store_bytes']}",
            "" if each is None else each,
            row["instructions_outside"],
            f"{row['bytes_per_row']:,}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--capability", default=90, show_default=True, help="Compute capability: 90 is an H100, 80 an A100.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="File for the rows.")
def main(capability: int, out: Path | None) -> None:
    """Print the table of docs/gpu.md."""
    rows = measure(capability)
    if out:
        out.write_text(json.dumps(rows, indent=1) + "\n")
    click.echo(markdown(rows), nl=False)


if __name__ == "__main__":
    main()
