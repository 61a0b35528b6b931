"""fastlabel train-teacher"""

from __future__ import annotations

from typing import Any

import click

from fastlabel.cli.training_options import ProgressBar, print_result, recipe_options, run_options, take_recipe


@click.command("train-teacher")
@click.argument("data", metavar="DATA.beton", type=click.Path(exists=True, dir_okay=False))
@click.option("--val", required=True, type=click.Path(exists=True, dir_okay=False), help="Images to evaluate on.")
@click.option("--arch", required=True, help="convnet-d3, convnet-d4, ... or a torchvision classifier: resnet18.")
@click.option("--out", required=True, type=click.Path(), help="Folder for checkpoints and metrics.")
@click.option("--size", type=int, help="Pixels.  [default: that of the images if they share one, else 224]")
@click.option(
    "--view-policy",
    type=click.Choice(["random-resized-crop", "pad-crop", "identity", "center"]),
    help="[default: pad-crop for images of up to 64 pixels of one size, else random-resized-crop]",
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror half of the random crops.")
@click.option("--keep-every", type=int, default=1, show_default=True, help="Keep every n-th epoch; 0: the last.")
@click.option("--eval-every", type=int, default=1, show_default=True, help="Evaluate every n-th epoch.")
@recipe_options
@run_options
def command(as_json: bool, **options: Any) -> None:
    """Train a teacher on DATA.beton, keeping a checkpoint of every epoch.

    OUT gets epoch-000.pt (the initialisation), epoch-001.pt, ..., metrics.jsonl, config.json and last.pt.
    """
    from fastlabel.train import TeacherConfig, train_teacher

    with ProgressBar() as bar:
        result = train_teacher(TeacherConfig(recipe=take_recipe(options), **options), bar)
    print_result(result, as_json)
