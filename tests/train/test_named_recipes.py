"""Recipes by name: what they set is what their authors' scripts say, and the command line wins over them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fastlabel.cli import train_student
from fastlabel.errors import InputError
from fastlabel.train import StudentConfig, find_recipe
from fastlabel.train.named_recipes import NAMES, OPTIONS

BASE = {"data": "a", "store": "b", "val": "c", "out": "d", "arch": "resnet18"}
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def config(name, **changes):
    return StudentConfig(**BASE, **find_recipe(name).arguments(**changes))


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_a_run_that_could_be(name):
    named = find_recipe(name)
    assert named.title and "arXiv" in named.source and "--views" in named.labels
    made = config(name)
    assert made.recipe.epochs == named.options["epochs"]
    # Every option is one of the command, and is in the page.
    known = {option for param in train_student.command.params for option in param.opts}
    assert {f"--{option}" for option in OPTIONS} <= known
    assert f"`{name}`" in PAGE.read_text()


def test_what_their_scripts_say():
    """Rates and temperatures of epochs 0, 30, ... as the authors' code computes them."""
    every = range(0, 300, 30)
    sre2l, lpqld, rded, hald, fkd, paper = (config(name) for name in NAMES)
    for made, halved in ((sre2l, 1), (lpqld, 1), (rded, 2), (hald, 2)):
        rates = [made.recipe.lr_at(epoch, 1) for epoch in every]
        assert rates == pytest.approx([0.0005 * (1 + math.cos(math.pi * e / 300 / halved)) for e in every])
        assert made.loss == "kl" and made.recipe.optimizer == "adamw" and made.recipe.weight_decay == 0.01
    temperatures = [[made.use.temperatures(epoch) for epoch in every] for made in (sre2l, lpqld, fkd)]
    assert temperatures[0] == [(20, 20)] * 10 and temperatures[2] == [(1, 1)] * 10
    assert [label for label, _ in temperatures[1]] == pytest.approx([max(2, 20 * 0.7 ** (e // 30)) for e in every])
    assert {student for _, student in temperatures[1]} == {1}
    assert lpqld.tail == "renormalise" and fkd.keep == 5 and fkd.views_per_image == 4
    assert [hald.use.phase(epoch) for epoch in (0, 74, 75, 224, 225, 299)] == ["soft"] * 2 + ["hard"] * 2 + ["soft"] * 2
    assert [paper.recipe.lr_at(epoch, 1) for epoch in (0, 750, 1500, 2250)] == pytest.approx(
        [0.01, 0.003, 0.0009, 0.00027]
    )
    assert not paper.recipe.nesterov and not fkd.recipe.nesterov


def test_changes_win():
    made = config("lpqld", epochs=10, temperature=4, batch_size=8)
    assert (made.recipe.epochs, made.recipe.batch_size) == (10, 8)
    assert (made.label_temperature, made.student_temperature) == (4, 4)
    assert config("sre2l", label_temperature=2).student_temperature == 20
    with pytest.raises(InputError, match="sets 'colour', which a recipe cannot"):
        config("sre2l", colour=3)


@pytest.mark.slow
def test_recipes_of_the_command_line(train_command, tmp_path):
    done = train_command("--recipe", "lpqld", "--keep", 2, epochs=2)
    assert done.exit_code == 0, done.stderr
    assert "recipe lpqld: LPQLD. Xiao and He 2026, arXiv 2604.18135" in done.stderr
    assert "the command line instead: --epochs 2 --batch-size 8" in done.stderr
    assert "sets --optimizer adamw --lr 0.001" in done.stderr and "goes with labels of cache-labels" in done.stderr
    run = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert (run["loss"], run["tail"], run["keep"]) == ("kl", "renormalise", 2)
    assert (run["label_temperature"], run["student_temperature"]) == ("step:20,0.7,30,2", 1)
    assert (run["recipe"]["optimizer"], run["recipe"]["epochs"]) == ("adamw", 2)
    # A temperature for both wins over those of each; hard labels have neither.
    options = ["--recipe", "lpqld"]
    assert train_command(*options, "--temperature", "cosine:4,1", out="warm", epochs=1).exit_code == 0
    run = json.loads((tmp_path / "warm" / "config.json").read_text())["run"]
    assert run["label_temperature"] == run["student_temperature"] == "cosine:4,1"
    hard = train_command(*options, "--labels", "hard", out="hard", epochs=1)
    assert hard.exit_code == 0, hard.stderr
    run = json.loads((tmp_path / "hard" / "config.json").read_text())["run"]
    assert run["label_temperature"] == 1 and "loss" not in run and run["recipe"]["optimizer"] == "adamw"


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[options]\nepochs = 4\nema = 0.9\nphases = "soft:2,hard:2"\n')
    made = config(path)
    assert made.recipe.ema == 0.9 and made.phases == "soft:2,hard:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[options]\ncolour = 3", "sets 'colour', which a recipe cannot: it may set epochs, batch-size"),
        ("[options]\nepochs = '3'", "sets epochs to '3', expected a whole number"),
        ("[options]\nepochs = true", "sets epochs to True, expected a whole number"),
        ("[options]\nlr = 'fast'", "sets lr to 'fast', expected a number"),
        ("[options]\ncompile = 1", "sets compile to 1, expected true or false"),
        ("[options]\ntemperature = [4]", r"sets temperature to \[4\], expected a number or a text"),
        ("epochs = 3", "has 'epochs', expected title, source, labels and a table"),
        ("title = 3\n[options]\nlr = 1", "needs texts"),
        ("title = 'x'", "needs texts"),
        ("[options", "cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_recipe(path)


def test_recipes_that_there_are_not(tmp_path, train_command):
    with pytest.raises(InputError, match=r"unknown recipe 'sr2l': known are sre2l, lpqld, .* or give a FILE.toml"):
        find_recipe("sr2l")
    with pytest.raises(InputError, match="cannot be read"):
        find_recipe(tmp_path / "none.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 17))
    with pytest.raises(InputError, match="cannot be read"):
        find_recipe(tmp_path / "big.toml")
    refused = train_command("--recipe", "hald", epochs=3)
    assert refused.exit_code == 2 and "add up to 300 epochs, and the run has 3" in refused.stderr
    assert train_command("--recipe", "sr2l").exit_code == 2 and not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="does not say how many epochs"):
        (tmp_path / "mine.toml").write_text("[options]\nlr = 0.1\n")
        find_recipe(tmp_path / "mine.toml").arguments()
