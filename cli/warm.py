"""python -m fastlabel.cli.warm: the smallest demo, so that Numba compiles the kernels and keeps them on disk.

`make setup` runs it once. The kernels lie in `__pycache__` beside their sources, or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click


def main() -> None:
    """Run the demo's whole path in a temporary folder: its kernels are those of every command."""
    from fastlabel.demo.run import DemoConfig, run_demo

    started = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"warm: {time.monotonic() - started:4.0f} s  {line}", err=True)

    say("loading")
    with tempfile.TemporaryDirectory(prefix="fastlabel-warm-") as folder:
        out = str(Path(folder) / "demo")
        run_demo(DemoConfig(out, (1,), seeds=1, views=1, arch="convnet-d1-w8", teacher_epochs=1, student_epochs=1), say)
    say("the kernels are compiled and kept")


if __name__ == "__main__":
    main()
