"""What train-teacher and train-student share: the options of a recipe, progress, and the summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastlabel.system.progress import Progress
from fastlabel.train.choices import DEFAULT_LEARNING_RATES, OPTIMIZERS, SCHEDULES

if TYPE_CHECKING:
    from fastlabel.train import Recipe, Result

Command = TypeVar("Command", bound=Callable[..., Any])

_RATES = ", ".join(f"{rate} for {name}" for name, rate in DEFAULT_LEARNING_RATES.items())
_RECIPE = [
    click.option("--epochs", type=int, required=True, help="How often every image is trained on."),
    click.option("--batch-size", type=int, default=256, show_default=True, help="Crops per step, over all ranks."),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True),
    click.option("--lr", type=float, help=f"Highest learning rate.  [default: {_RATES}]"),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd."),
    click.option("--nesterov/--no-nesterov", default=True, show_default=True, help="Of sgd with a momentum."),
    click.option("--weight-decay", type=float, default=5e-4, show_default=True),
    click.option("--schedule", type=click.Choice(SCHEDULES), default="cosine", show_default=True),
    click.option("--step-factor", type=float, default=0.3, show_default=True, help="Of the rate at each step."),
    click.option(
        "--step-fraction", type=float, default=0.25, show_default=True, help="Share of all epochs between steps."
    ),
    click.option("--warmup", type=float, default=0.0, show_default=True, help="Epochs of linear warmup."),
    click.option("--label-smoothing", type=float, default=0.0, show_default=True, help="Of hard labels."),
    click.option(
        "--ema",
        type=float,
        default=0.0,
        show_default=True,
        help="Decay in each step of an average of the weights, which is tested and kept; 0: none.",
    ),
    click.option("--amp/--no-amp", default=None, help="Train and evaluate in bfloat16.  [default: on CUDA]"),
    click.option("--compile", is_flag=True, help="Train the network as torch.compile makes it."),
]
_RUN = [
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Weights, views and order."),
    click.option(
        "--workers", "num_workers", type=click.IntRange(0), default=0, help="Decoding threads.  [default: all cores]"
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option(
        "--sync-batch-norm", is_flag=True, help="Batch norm over all ranks instead of each alone (torchrun, CUDA)."
    ),
    click.option(
        "--allow-missing-classes", is_flag=True, help="Test where some classes have no folder among the --val images."
    ),
    click.option(
        "--resident-bytes",
        metavar="BYTES",
        type=click.IntRange(0),
        help="GPU memory for decoded images, which stay if all fit; 0: none stays.  [default: 1/8 of what is free]",
    ),
    click.option("--resume", is_flag=True, help="Continue the run in --out after the last step that it saved."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
]


def recipe_options(command: Command) -> Command:
    """Add the options that `take_recipe` takes."""
    for option in reversed(_RECIPE):
        command = option(command)
    return command


def run_options(command: Command) -> Command:
    """Add the options of where and how a run goes, from --seed to --json."""
    for option in reversed(_RUN):
        command = option(command)
    return command


def take_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe of these options, which are taken out of `options`."""
    from fastlabel.train import Recipe

    names = set(options) & set(Recipe.__dataclass_fields__)
    return Recipe(**{name: options.pop(name) for name in names})


def print_result(result: Result, as_json: bool) -> None:
    """The outcome of a run, on stdout; of several ranks the first one tells it."""
    from fastlabel.system.ranks import Ranks

    if not Ranks.current().first:
        return
    if as_json:
        click.echo(json.dumps(result.to_dict()))
        return
    last = result.history[-1]
    click.echo(
        f"{result.checkpoint}: top-1 {last['val_accuracy']:.2%}, top-5 {last['val_top5']:.2%}, "
        f"loss {last['val_loss']:.4f} nats after {last['epoch']} epochs"
    )


class ProgressBar:
    """One bar over all steps of a run on stderr, and a line for every epoch that was evaluated."""

    def __init__(self) -> None:
        self._bar = Progress("train", 0, "steps", shown=False)
        self._epochs = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def start(self, step: int, epochs: int, steps_per_epoch: int) -> None:
        """Training goes on after `step` steps."""
        self._bar.close()  # of an expert before this one
        self._epochs = epochs
        self._bar = Progress("train", epochs * steps_per_epoch, "steps", done=step)

    def step(self, images: int) -> None:
        """One more batch is done."""
        self._bar.update()

    def note(self, text: str) -> None:
        """Something to know before the run."""
        click.echo(text, err=True)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is done."""
        self._bar.note(f"{metrics['images_per_second']:.0f} images/s")
        if "val_accuracy" in metrics:
            self._bar.message(
                f"epoch {metrics['epoch']}/{self._epochs}  loss {metrics['train_loss']:.4f}  "
                f"val loss {metrics['val_loss']:.4f}  val top-1 {metrics['val_accuracy']:.2%}  "
                f"{metrics['images_per_second']:.0f} images/s"
            )
