"""What each rank runs in tests/test_ddp.py: `torchrun --nproc-per-node 2 -m tests.ddp_driver FOLDER`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fastlabel.cli.main import main
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import seed_rank
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Trainer
from fastlabel.train.objectives import cached_loss
from fastlabel.train.process_group import training_ranks
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run
from fastlabel.views import ViewPolicy

ARCH, EPOCHS, BATCH = "convnet-d1-w8", 20, 8


def student_arguments(folder: Path, out: Path) -> list[str]:
    """A student's command line."""
    arguments = ["train-student", folder / "data.beton", folder / "labels.zarr", "--val", folder / "data.beton"]
    arguments += ["--arch", ARCH, "--out", out, "--epochs", EPOCHS, "--batch-size", BATCH]
    uses = ["--ema", "0.9", "--temperature", "step:4,0.5,5,1", "--phases", "soft:8,hard:4,soft:8"]
    return [*map(str, arguments), "--device", "cpu", "--eval-every", "5", *uses]


def run_command(arguments: Sequence[str]) -> int:
    """The exit code of a command, in this process."""
    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("click ends with SystemExit")


def train_uneven(folder: Path, out: Path, ranks: Ranks, views_per_image: int = 1) -> None:
    """60 samples in batches of 59, so that a rank has nothing of the last one; one image to evaluate on."""
    crops = 59 * views_per_image
    torch.manual_seed(0)
    model = Classifier(ModelSpec(ARCH, 3, 16))
    seed_rank(0, ranks)
    share = {"rank": ranks.rank, "world_size": ranks.world_size}
    data, store = folder / "data.beton", folder / "labels.zarr"
    loader = SoftLabelLoader(data, store, crops, seed=1, **share, views_per_image=views_per_image)
    one = SoftLabelLoader(data, None, 2, policy=ViewPolicy.center(16), indices=[7], shuffle=False, **share)
    recipe = Recipe(epochs=3, batch_size=crops, lr=0.02)
    evaluate = Evaluator(one, ranks=ranks)
    trainer = Trainer(
        model, loader, cached_loss(), evaluate, recipe, Run(out, {}), torch.device("cpu"), ranks=ranks, keep_every=0
    )
    trainer.fit()


def stop_after(epochs: int, run: Path) -> None:
    """SIGTERM to this process alone, once the run has these epochs behind it."""
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < epochs:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def run_all(folder: Path, rank: int) -> None:
    """All commands of one rank, and its runs by hand."""
    codes = [run_command(student_arguments(folder, folder / "two"))]
    if rank == 1:
        threading.Thread(target=stop_after, args=(3, folder / "stopped"), daemon=True).start()
    codes.append(run_command(student_arguments(folder, folder / "stopped")))
    if rank == 0:
        shutil.copytree(folder / "stopped", folder / "copy")
    codes.append(run_command([*student_arguments(folder, folder / "stopped"), "--resume"]))
    with training_ranks(torch.device("cpu")) as (ranks, _):
        train_uneven(folder, folder / "uneven", ranks)
        train_uneven(folder, folder / "pairs", ranks, views_per_image=2)
    (folder / f"codes-{rank}").write_text(" ".join(map(str, codes)))


if __name__ == "__main__":
    # Not here: what a module holds lives on while Python ends, and with the process group its threads.
    run_all(Path(sys.argv[1]), int(os.environ["RANK"]))
