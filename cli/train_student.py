"""fastlabel train-student"""

from __future__ import annotations

from typing import Any

import click

from fastlabel.cli.label_options import label_use_options, take_temperatures
from fastlabel.cli.recipe_option import apply_recipe, recipe_option
from fastlabel.cli.teacher_options import trust_option
from fastlabel.cli.training_options import ProgressBar, print_result, recipe_options, run_options, take_recipe


@click.command("train-student")
@click.argument("data", metavar="DATA.beton", type=click.Path(exists=True, dir_okay=False))
@click.argument("store", metavar="STORE.zarr", type=click.Path())
@click.option("--val", required=True, type=click.Path(exists=True, dir_okay=False), help="Images to evaluate on.")
@click.option("--arch", required=True, help="convnet-d3, convnet-d4, ... or a torchvision classifier: resnet18.")
@click.option("--out", required=True, type=click.Path(), help="Folder for checkpoints and metrics.")
@click.option(
    "--labels",
    type=click.Choice(["cache", "online", "hard"]),
    default="cache",
    show_default=True,
    help="Train on the store's labels, on the teacher run along, or on the class of each image.",
)
@click.option(
    "--teacher",
    metavar="SPEC",
    multiple=True,
    help="What labelled the store, for --labels online: a FILE, torchvision:NAME@WEIGHTS or timm:NAME; of an "
    "ensemble all members, in order. How it runs is in the store.",
)
@trust_option
@click.option("--teacher-index", type=int, default=0, show_default=True, help="Which teacher of the store.")
@click.option("--ipc", type=int, help="Train on this many random images per class.  [default: all]")
@click.option("--ipc-seed", type=int, help="Chooses them.  [default: --seed]")
@click.option(
    "--views-per-image",
    metavar="M",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Crops of each image in a step, cut from one decode, with their own labels. An epoch then trains on M crops "
    "of every image: for as many crops give an M-th of the epochs. --batch-size counts crops.",
)
@click.option(
    "--student-size",
    "size",
    metavar="S",
    help="Side of the student's crops, from the same boxes; 160:16,192:32,224 grows it. [default: the store's]",
)
@recipe_option
@label_use_options
@click.option("--keep-every", type=int, default=0, show_default=True, help="Keep every n-th epoch; 0: the last.")
@click.option("--eval-every", type=int, help="[default: 1 up to 20 epochs, else about 10 evaluations in all]")
@recipe_options
@run_options
def command(as_json: bool, teacher: tuple[str, ...], **options: Any) -> None:
    """Train a student on the views of STORE.zarr, whose image size and crops it takes.

    OUT gets metrics.jsonl, config.json, last.pt and the checkpoints kept. last.pt is written every minute too, and on
    SIGINT and SIGTERM: --resume goes on after the step that it stands after, with the samples and views that were left.

    On several GPUs or machines: torchrun --nproc-per-node N -m fastlabel.cli.main train-student ...
    """
    from fastlabel.train import StudentConfig, train_student

    apply_recipe(click.get_current_context(), options)
    take_temperatures(options)
    with ProgressBar() as bar:
        result = train_student(StudentConfig(recipe=take_recipe(options), teacher=teacher or None, **options), bar)
    print_result(result, as_json)
