"""The `fastlabel` command: finds the subcommand, turns expected errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Any

import click

from fastlabel.errors import FastlabelError
from fastlabel.system.allocator import keep_freed_memory

# OpenMP threads that spin while they wait take the cores from the threads that decode; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# name: (module with `command`, help line). A module is imported only when its command is used.
COMMANDS = {
    "write-dataset": ("fastlabel.cli.write_dataset", "Write images into one .beton file."),
    "train-teacher": (
        "fastlabel.cli.train_teacher",
        "Train a network on hard labels; keep a checkpoint per epoch.",
    ),
    "cache-labels": ("fastlabel.cli.cache_labels", "Store the teacher's soft labels of deterministic views."),
    "train-student": ("fastlabel.cli.train_student", "Train a network on cached, online or hard labels."),
    "inspect": ("fastlabel.cli.inspect", "Say what a label store holds, and draw crops beside their labels."),
    "import": ("fastlabel.cli.import_labels", "Make a store of labels in another project's files."),
    "export": ("fastlabel.cli.export_labels", "Write the labels of a store as another project's files."),
    "compare": ("fastlabel.cli.compare", "Say how the labels of two stores differ."),
    "copy": ("fastlabel.cli.copy", "Copy the first views and some teachers of a label store, whole units alone."),
    "verify": ("fastlabel.cli.verify", "Check every byte of a store, its dataset, and labels against a teacher."),
    "repair": ("fastlabel.cli.repair", "Label again what is damaged in a store, and nothing else."),
    "bench": ("fastlabel.cli.bench", "Measure speed and size here, against other ways to do it."),
    "study": ("fastlabel.cli.study", "The experiments of arXiv 2406.10485, from a label cache."),
    "demo": ("fastlabel.cli.demo", "From digits to students trained on soft labels, in minutes."),
}
# These run networks or train them, on the CPU where there is no GPU. `verify` does with a teacher only.
COMPUTING = {"train-teacher", "cache-labels", "train-student", "repair", "bench", "study", "demo"}
INTERRUPTED = 130  # what shells report for SIGINT


class LazyGroup(click.Group):
    """A group that imports a subcommand when it runs, so that --help and --version stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastlabelError as error:
            return _fail(ctx, error, str(error), error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # `| head`: click ends quietly
                raise
            return _fail(ctx, error, _describe(error), FastlabelError.exit_code)
        except KeyboardInterrupt as error:
            return _fail(ctx, error, "interrupted", INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # no error that we foresaw: still one line, and the way to see more
            first = (str(error).splitlines() or [""])[0]
            message = f"{type(error).__name__}: {first} (`fastlabel --debug ...` shows where)"
            return _fail(ctx, error, message, FastlabelError.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastlabel", prog_name="fastlabel")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Soft labels, computed once: write images, train a teacher, cache its labels, train students."""
    if ctx.invoked_subcommand in COMPUTING:
        keep_freed_memory()


def _fail(ctx: click.Context, error: BaseException, message: str, exit_code: int) -> None:
    if ctx.params.get("debug"):
        raise error
    click.echo(f"error: {' '.join(message.split())}", err=True)
    ctx.exit(exit_code)


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    main()
