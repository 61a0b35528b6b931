"""fastlabel write-dataset, and how the command line reports."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import click
import numpy as np
import pytest
from PIL import Image

import fastlabel.cli.main as main_module
from fastlabel.errors import InputError, StoreError


@pytest.mark.usefixtures("lines_at_once")
def test_a_folder_is_written_and_summed_up(cli, photo_folder, tmp_path):
    result = cli("write-dataset", photo_folder, tmp_path / "a.beton")
    assert result.exit_code == 0
    assert "12 samples, 3 classes" in result.stdout
    assert "write-dataset: 12 of 12 images (100 %)" in result.stderr
    assert (tmp_path / "a.beton").exists() and (tmp_path / "a.beton.json").exists()


def test_json_is_one_object(cli, photo_folder, tmp_path):
    (photo_folder / "cat" / "notes.jpg").write_text("not an image")
    result = cli("write-dataset", photo_folder, tmp_path / "a.beton", "--json", "--skip-broken")
    report = json.loads(result.stdout)
    assert report["num_samples"] == 12 and report["classes"] == ["bird", "cat", "dog"]
    assert len(report["left_out"]) == 1
    assert "left out" in result.stderr and "notes.jpg" in result.stderr


def test_an_error_is_one_line_and_exit_code_2(cli, photo_folder, tmp_path):
    (photo_folder / "cat" / "000.jpg").write_bytes(b"no image")
    result = cli("write-dataset", photo_folder, tmp_path / "a.beton")
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "cat/000.jpg" in line and "Traceback" not in result.stderr
    assert not (tmp_path / "a.beton").exists()


@pytest.mark.parametrize("args", [[], ["nowhere"], ["a", "b", "--write-mode", "png"], ["a", "b", "--workers", "-1"]])
def test_bad_usage_exits_2(cli, args):
    assert cli("write-dataset", *args).exit_code == 2


@pytest.fixture
def failing(cli, monkeypatch):
    """Run a subcommand that raises."""

    def run(error, *options):
        @click.command
        def command():
            raise error

        monkeypatch.setattr(main_module, "import_module", lambda name: SimpleNamespace(command=command))
        return cli(*options, "demo")

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a value"), 2, "error: a value"),
        (StoreError("a store\nin two lines"), 1, "error: a store in two lines"),
        (OSError(28, "No space left on device", "x.beton"), 1, "error: x.beton: No space left on device"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_exit_codes(failing, error, code, line):
    result = failing(error)
    assert (result.exit_code, result.stderr.strip()) == (code, line)


def test_debug_shows_the_traceback(failing):
    with pytest.raises(StoreError):
        failing(StoreError("a store"), "--debug")


def test_help_and_version(cli):
    help_text = cli("--help").stdout
    assert all(name in help_text for name in main_module.COMMANDS)
    assert cli("--version").stdout.startswith("fastlabel, version 0.")
    assert cli("nonsense").exit_code == 2


@pytest.mark.parametrize("name", main_module.COMMANDS)
def test_every_command_exists_and_has_help(cli, name):
    command = importlib.import_module(main_module.COMMANDS[name][0]).command
    assert command.name == name
    assert cli(name, "--help").exit_code == 0


@pytest.mark.slow
def test_ctrl_c_leaves_no_file(tmp_path, photo_folder):
    """A real process, a real SIGINT, while images are being written."""
    large = photo_folder / "dog" / "large.jpg"
    Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(large)
    for index in range(600):
        os.link(large, photo_folder / "dog" / f"large{index}.jpg")
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fastlabel.cli.main",
            "write-dataset",
            str(photo_folder),
            str(out / "a.beton"),
        ],
        stderr=subprocess.PIPE,
    )
    while not list(out.iterdir()) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert list(out.iterdir()) == []
