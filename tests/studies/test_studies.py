"""Every study at a tiny setting: what its students train on is what it says, and its results agree with each other."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel import label_ops
from fastlabel.errors import InputError
from fastlabel.labels.topk import TopKLabels
from fastlabel.studies.registry import STUDIES, find_study
from fastlabel.studies.runner import run_study
from fastlabel.studies.selection import decile_of, expert_losses
from tests.studies.tiny import CLASSES, study_config, write_colours

pytestmark = pytest.mark.slow

GRIDS = {
    "baseline": {"ipc": (1, 4), "epoch": (1, 3)},
    "expert-epoch": {"ipc": (1, 3), "epoch": (1, 3)},
    "temperature": {"ipc": (2,), "epoch": (1, 3), "temperature": (1.0, 4.0)},
    "label-swap": {"ipc": (3,), "rank": (1, 2)},
    "data-knowledge": {"ipc": (1, 2, 3, 4), "top-k": ("2", "all", "hard"), "rest": ("zero", "renormalise", "tail")},
    "zero-shot": {"ipc": (3,), "class": (0, 4)},
    "ensemble": {"ipc": (2,), "epoch": (1, 3)},
    "selection": {"ipc": (2,), "strategy": ("0", "9", "stratified", "random")},
    "label-use": {"ipc": (2,), "temperature": ("1", "cosine:20,2"), "keep": ("all", "2"), "label-loss": ("kl", "gift")},
    "structure": {"ipc": (1, 3), "epoch": (1, 3)},
    "learned-labels": {"ipc": (1,), "epoch": (1, 3), "updates": (2,), "window": (2,)},
}
CELLS = {
    "baseline": 4,
    "expert-epoch": 4,
    "temperature": 4,
    "label-swap": 3,
    "data-knowledge": 20,
    "zero-shot": 5,
    "ensemble": 2 * (1 + 2),
    "selection": 8,
    "label-use": 2 * 2 + 1,
    "structure": 2 * 3 * 2 + 2,
    "learned-labels": 5,
}


@pytest.fixture(scope="session")
def ran(study):
    """ran("temperature") -> its run at the tiny setting, made when it is first asked for; the labels at hand."""
    made = {}

    def run(name):
        if name not in made:
            # One student in each of the many cells.
            one = study(name, GRIDS[name], repeats=1 if CELLS[name] > 6 else 2)
            cells = one.study.cells(one.bench, one.study.grid(one.bench.config))
            one.cells = cells
            ids = np.unique(np.concatenate([one.study.samples(one.bench, cell, 0) for cell in cells]))
            one.bench.label([expert for cell in cells for expert in one.study.experts(one.bench, cell)], ids)
            made[name] = one
        return made[name]

    return run


def of(run, cell, repeat=0):
    """The samples of a cell, and its labels: [B, C], or None for hard ones."""
    ids = run.study.samples(run.bench, cell, repeat)
    labels = run.study.target(run.bench, cell, ids, repeat)
    return ids, None if labels is None else labels.dense()


def real(run, ids, epoch, number=0):
    return run.bench.labels((number, epoch), ids).dense()


@pytest.mark.parametrize("name", STUDIES)
def test_the_files_of_a_result_agree(ran, name):
    run = ran(name)
    out, outcome = run.out, run.outcome
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert len(lines) == len(table) == len(run.rows) == outcome.done == CELLS[name] * run.bench.config.repeats
    for line, cells, row in zip(lines, table, run.rows, strict=True):
        assert line == {"cell": row.cell, "repeat": row.repeat, "result": row.result}
        assert float(cells["accuracy"]) == row.result["accuracy"]
        assert {axis: cells[axis] for axis in row.cell} == {axis: str(value) for axis, value in row.cell.items()}
    report = (out / "report.md").read_text()
    assert report.startswith(f"# {run.study.question}\n")
    for part in [table.markdown() for table in outcome.report.tables] + list(outcome.report.findings):
        assert part in report
    assert outcome.report.findings and "nan" not in report
    with Image.open(out / "figure.png") as image:
        image.load()
    assert json.loads((out / "config.json").read_text())["study"] == name


@pytest.mark.parametrize("name", STUDIES)
def test_results_describe_the_students_and_their_labels(ran, name):
    run = ran(name)
    for row in run.rows:
        ids, labels = of(run, row.cell, row.repeat) if row.repeat == 0 else (None, None)
        result = row.result
        assert 0 <= result["accuracy"] <= 1 and result["accuracy"] == pytest.approx(np.mean(result["by_class"]))
        if ids is None:
            continue
        assert result["images"] == len(ids)
        if labels is None:
            assert (result["label_entropy"], result["label_top1"]) == (0, 1)
            continue
        shares = labels.double() / labels.double().sum(1, keepdim=True)
        entropy = torch.special.entr(shares).sum(1).mean()
        assert result["label_entropy"] == pytest.approx(float(entropy), abs=1e-5)
        top = (labels.argmax(1).numpy() == run.bench.data.targets[ids]).mean()
        assert result["label_top1"] == pytest.approx(top, abs=0.2)  # equal weights: whichever comes first


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("selection", "zero-shot")])
def test_cells_of_as_many_images_have_the_same_ones_nested(ran, name):
    run = ran(name)
    chosen = {}
    for cell in run.cells:
        ids = run.study.samples(run.bench, cell, 0)
        assert np.array_equal(chosen.setdefault(cell["ipc"], ids), ids)
        assert np.bincount(run.bench.data.targets[ids]).tolist() == [cell["ipc"]] * CLASSES
        assert not np.array_equal(run.study.samples(run.bench, cell, 1), ids)
    counts = sorted(chosen)
    assert all(set(chosen[few]) <= set(chosen[many]) for few, many in pairwise(counts))


def test_labels_are_what_the_expert_says_of_the_whole_image(ran):
    """Against the teacher itself, without a cache."""
    from fastlabel.studies.in_memory import decode_pixels

    run = ran("expert-epoch")
    for epoch in (1, 3):
        ids, labels = of(run, {"ipc": 3, "epoch": epoch})
        teacher = run.bench.experts[0].teacher(epoch, torch.device("cpu")).model
        with torch.no_grad():
            expected = teacher(decode_pixels(run.bench.data, ids, 8)).softmax(1)
        # Codes have steps of 1/8 nat below the top class.
        torch.testing.assert_close(labels, expected, atol=0.04, rtol=0.07)


def test_baseline_compares_hard_and_soft_labels_of_its_epochs(ran):
    run = ran("baseline")
    assert [(c["ipc"], c["labels"], c["epoch"]) for c in run.cells] == [
        (1, "hard", 1),
        (1, "soft", 1),
        (4, "hard", 3),
        (4, "soft", 3),
    ]
    for hard, soft in (run.cells[:2], run.cells[2:]):
        (ids, none), (same, labels) = of(run, hard), of(run, soft)
        assert none is None and np.array_equal(ids, same)
        torch.testing.assert_close(labels, real(run, ids, soft["epoch"]))
    gain = run.rows.where(ipc=4, labels="soft").spread().mean - run.rows.where(ipc=4, labels="hard").spread().mean
    assert (
        run.outcome.report.findings[1]
        == f"4 images per class: soft labels change accuracy by {100 * gain:+.1f} points."
    )


def test_label_use_trains_on_the_stored_labels_as_it_says(ran):
    run = ran("label-use")
    assert [tuple(c[name] for name in ("label-loss", "temperature", "keep", "tail")) for c in run.cells] == [
        ("kl", "1", "all", "uniform"),
        ("kl", "1", "2", "renormalise"),
        ("kl", "cosine:20,2", "all", "uniform"),
        ("kl", "cosine:20,2", "2", "renormalise"),
        ("gift", "1", "all", "uniform"),
    ]
    ids = run.study.samples(run.bench, run.cells[0], 0)
    logits = torch.randn(len(ids), CLASSES, generator=torch.Generator().manual_seed(1))
    stored = run.bench.labels((0, 3), ids)
    found = run.study.training(run.bench, run.cells[3]).use(logits, stored, epoch=1)
    # The second of two epochs: T is half-way between 20 and 2.
    top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, stored.classes.long()[:, :2], True)
    p = torch.softmax(torch.where(top, stored.dense().log() / 11, -torch.inf), 1)
    q = torch.log_softmax(logits / 11, 1)
    torch.testing.assert_close(found, 121 * (torch.special.xlogy(p, p) - p * q).sum(1).mean(), rtol=1e-4, atol=1e-5)
    assert {row.result["label_bytes"] for row in run.rows.where(keep="all")} == {3 * CLASSES + 4}
    assert {row.result["label_bytes"] for row in run.rows.where(keep="2")} == {10}
    assert [line[0] for line in run.outcome.report.tables[0].rows] == ["kl", "kl", "gift"]
    assert run.outcome.report.tables[0].rows[2][-1] == "-"


def test_baseline_over_recipes_and_rates(study):
    """At tiny epochs; phases and steps of temperatures in proportion."""
    run = study("baseline", {"ipc": (2,), "epoch": (3,), "recipe": ("hald", "lpqld"), "lr": (0.01, 0.1)}, repeats=1)
    cells = run.study.cells(run.bench, run.study.grid(run.bench.config))
    assert len(cells) == len(run.rows) == 8
    assert [tuple(cell[name] for name in ("recipe", "lr", "labels")) for cell in cells[:3]] == [
        ("hald", 0.01, "hard"),
        ("hald", 0.01, "soft"),
        ("hald", 0.1, "hard"),
    ]
    hard, soft = (run.study.training(run.bench, cell) for cell in cells[2:4])
    assert hard.use is None and hard.recipe == soft.recipe
    assert (soft.recipe.epochs, soft.recipe.lr, soft.recipe.batch_size) == (2, 0.1, 16)
    assert (soft.recipe.optimizer, soft.recipe.schedule, soft.recipe.label_smoothing) == ("adamw", "half-cosine", 0.8)
    assert (soft.use.phases, soft.use.loss, soft.use.label_temperature) == ("hard:2", "kl", 20)
    quantised = run.study.training(run.bench, cells[-1]).use
    assert (quantised.tail, quantised.label_temperature, quantised.student_temperature) == (
        "renormalise",
        "step:20,0.7,1,2",
        1,
    )
    report = run.outcome.report
    assert report.tables[0].headers[:2] == ["recipe", "lr"] and len(report.tables[0].rows) == 4
    assert report.findings[0].startswith("recipe hald, lr 0.01: 2 images per class: soft labels change accuracy by")


def test_a_file_of_a_recipe_that_changed_is_another_study(data, experts, tmp_path):
    recipe, text = tmp_path / "mine.toml", '[options]\nepochs = 2\nbatch-size = 16\noptimizer = "adamw"\nlr = 0.001\n'
    recipe.write_text('title = "mine"\nsource = "none"\nlabels = ""\n' + text)
    grid = {"ipc": (1,), "epoch": (1,), "recipe": (str(recipe),)}
    config = study_config(data, experts, tmp_path / "out", grid=grid, repeats=1)
    assert run_study(find_study("baseline"), config).done == 2
    assert run_study(find_study("baseline"), config).done == 0
    more = replace(config, grid={**grid, "recipe": (str(recipe), "hald")})
    assert run_study(find_study("baseline"), more).done == 2
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    recipe.write_text(recipe.read_text().replace("0.001", "0.002"))
    with pytest.raises(InputError, match=r"its recipes.*lr is 0.001, this one has 0.002; choose another folder"):
        run_study(find_study("baseline"), config)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_expert_epoch_names_the_best_one(ran):
    run = ran("expert-epoch")
    for ipc in (1, 3):
        means = {epoch: run.rows.where(ipc=ipc, epoch=epoch).spread().mean for epoch in (1, 3)}
        best = 1 if means[1] >= means[3] else 3
        assert f"{ipc}: {best}" in run.outcome.report.findings[0]
    accuracies = [run.bench.experts[0].accuracy(epoch) for epoch in (1, 3)]
    assert [row[1] for row in run.outcome.report.tables[0].rows] == [f"{100 * a:.1f}" for a in accuracies]


def test_temperatures_divide_the_stored_logits(ran):
    run = ran("temperature")
    for cell in run.cells:
        ids, labels = of(run, cell)
        stored = run.bench.labels((0, cell["epoch"]), ids)
        assert isinstance(stored, TopKLabels)
        torch.testing.assert_close(labels, stored.dense(cell["temperature"]))
        torch.testing.assert_close(
            labels, (stored.dense().log() / cell["temperature"]).softmax(1), atol=1e-4, rtol=1e-3
        )
    cold, hot = (run.rows.where(epoch=3, temperature=t).spread("label_entropy").mean for t in (1.0, 4.0))
    assert hot > cold


def test_label_swap_exchanges_a_place_with_the_last(ran):
    run = ran("label-swap")
    (ids, control), (_, first), (_, second) = (of(run, cell) for cell in run.cells)
    torch.testing.assert_close(control, real(run, ids, 3))
    order = run.bench.labels((0, 3), ids).classes.long()  # by descending probability
    for place, labels in enumerate((first, second)):
        at, last = order[:, place : place + 1], order[:, -1:]
        torch.testing.assert_close(labels.gather(1, at), control.gather(1, last))
        torch.testing.assert_close(labels.gather(1, last), control.gather(1, at))
        others = torch.ones_like(labels, dtype=torch.bool).scatter(1, torch.cat([at, last], 1), False)
        torch.testing.assert_close(labels[others], control[others])
    row = run.outcome.report.tables[0].rows[1]
    change = run.rows.where(rank=1).spread().mean - run.rows.where(rank=0).spread().mean
    assert row[0] == "1" and float(row[2]) == pytest.approx(100 * change, abs=0.06)


def test_data_knowledge_keeps_the_largest_weights(ran):
    run = ran("data-knowledge")
    for cell in run.cells:
        ids, labels = of(run, cell)
        if cell["k"] == "hard":
            assert labels is None and cell["rest"] == "-"
            continue
        whole = real(run, ids, 3)
        if cell["k"] == "all":
            torch.testing.assert_close(labels, whole)
            continue
        top = run.bench.labels((0, 3), ids).classes[:, :2].long()  # of equal ones the expert's order
        kept = torch.zeros_like(whole).scatter(1, top, whole.gather(1, top))
        if cell["rest"] == "renormalise":
            kept = kept / kept.sum(1, keepdim=True)
        if cell["rest"] == "tail":
            left = (1 - kept.sum(1, keepdim=True)) / (CLASSES - 2)
            kept = torch.where(kept > 0, kept, left.expand_as(kept))
        torch.testing.assert_close(labels, kept, atol=1e-5, rtol=1e-4)
    assert len(run.outcome.report.tables[1].rows) == 5  # a law for each curve of four points
    assert [row[0] for row in run.outcome.report.tables[0].rows] == [
        "2, zero",
        "2, renormalise",
        "2, tail",
        "all",
        "hard",
    ]


def test_zero_shot_removes_images_or_a_column(ran):
    run = ran("zero-shot")
    control_ids, control = of(run, run.cells[0])
    targets = torch.from_numpy(run.bench.data.targets)
    for cell in run.cells[1:]:
        c = cell["class"]
        ids, labels = of(run, cell)
        own = targets[ids] == c
        if cell["treatment"] == "no images":
            assert not own.any() and len(ids) == 3 * (CLASSES - 1)
            assert set(ids) < set(control_ids)
            torch.testing.assert_close(labels, real(run, ids, 3))
            continue
        assert np.array_equal(ids, control_ids) and own.sum() == 3
        assert bool((labels[~own][:, c] == 0).all())
        torch.testing.assert_close(labels[own], control[own])
        others = torch.arange(CLASSES) != c
        torch.testing.assert_close(labels[:, others], control[:, others])  # not normalised again
    for row in run.rows:
        if row.cell["class"] >= 0:
            assert row.result["class_accuracy"] == row.result["by_class"][row.cell["class"]]
    assert [row[0] for row in run.outcome.report.tables[0].rows] == ["class0", "class4", "mean"]


def test_ensembles_are_means_before_or_after_the_softmax(ran):
    run = ran("ensemble")
    assert [(c["epoch"], c["members"], c["rule"]) for c in run.cells if c["epoch"] == 3] == [
        (3, 1, "mean-logits"),
        (3, 2, "mean-logits"),
        (3, 2, "mean-probs"),
    ]
    for cell in run.cells:
        ids, labels = of(run, cell)
        members = torch.stack([real(run, ids, cell["epoch"], number) for number in range(cell["members"])])
        mean = members.mean(0) if cell["rule"] == "mean-probs" else members.log().mean(0).softmax(1)
        torch.testing.assert_close(labels, mean, atol=1e-4, rtol=1e-3)


def test_weighted_ensembles(ran):
    run = ran("ensemble")
    ids, experts = np.arange(6), [(0, 3), (1, 3)]
    run.bench.label(experts, ids)
    labels = [run.bench.labels(expert, ids) for expert in experts]
    weights = label_ops.accuracy_weights([run.bench.experts[number].accuracy(3) for number in (0, 1)])
    expected = {
        "by-accuracy": label_ops.average_logits(labels, weights=weights),
        "scaled-logits": label_ops.average_scaled_logits(labels),
    }
    for rule, wanted in expected.items():
        cell = {"ipc": 2, "epoch": 3, "members": 2, "rule": rule}
        torch.testing.assert_close(run.study.target(run.bench, cell, ids, 0).dense(), wanted.dense())


def test_selection_takes_images_of_the_experts_deciles(ran):
    run = ran("selection")
    targets = run.bench.data.targets
    losses = expert_losses(run.bench, 3)
    everyone = np.arange(len(targets))
    probs = real(run, everyone, 3).double().numpy()[everyone, targets]
    np.testing.assert_allclose(losses, -np.log(probs), rtol=1e-4, atol=1e-5)
    deciles = decile_of(losses, targets)
    for cell in run.cells:
        ids, labels = of(run, cell)
        assert np.bincount(targets[ids]).tolist() == [2] * CLASSES
        assert (labels is None) == (cell["labels"] == "hard")
        if cell["strategy"] in ("0", "9"):
            assert set(deciles[ids]) == {int(cell["strategy"])}
        if cell["strategy"] == "stratified":
            assert set(deciles[ids]) == {2, 7}
    assert run.outcome.labelling_seconds > 0
    easy, hard = (run.rows.where(strategy=s, labels="soft").spread("label_top1").mean for s in ("0", "9"))
    assert easy > hard


def test_labels_without_structure_have_the_entropy_of_the_real_ones(ran):
    run = ran("structure")
    for ipc in (1, 3):
        for epoch in (1, 3):
            (ids, whole), (_, shuffled), (_, smoothed) = (
                of(run, {"ipc": ipc, "epoch": epoch, "labels": kind}) for kind in ("real", "shuffled", "smoothed")
            )
            torch.testing.assert_close(whole, real(run, ids, epoch))
            torch.testing.assert_close(shuffled.sort(1).values, whole.sort(1).values)
            top = run.bench.labels((0, epoch), ids).classes[:, :1].long()
            for rows in (whole, shuffled, smoothed):
                torch.testing.assert_close(rows.gather(1, top)[:, 0], rows.amax(1))
            torch.testing.assert_close(shuffled.gather(1, top), whole.gather(1, top))
            assert not torch.allclose(shuffled, whole)
            for row in smoothed.sort(1).values[:, :-1]:
                assert torch.allclose(row, row[0].expand_as(row))
            entropies = [torch.special.entr(rows.double()).sum(1) for rows in (whole, shuffled, smoothed)]
            torch.testing.assert_close(entropies[1], entropies[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(entropies[2], entropies[0], atol=1e-5, rtol=0)
    assert of(run, {"ipc": 1, "labels": "hard"})[1] is None
    assert len(run.outcome.report.panels) == 2


def test_a_class_without_a_test_image(data, experts, tmp_path):
    """Its accuracy is unknown: null in JSON, and no question for zero-shot."""
    few = SimpleNamespace(train=data.train, test=write_colours(tmp_path, "few", 2, 3, classes=CLASSES - 1))
    (tmp_path / "few.beton.json").unlink()  # the names of its classes
    config = study_config(few, experts, tmp_path / "out", grid={"ipc": (1,)}, repeats=1)
    run_study(find_study("structure"), config)
    for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines():
        by_class = json.loads(line, parse_constant=pytest.fail)["result"]["by_class"]
        assert by_class[-1] is None and None not in by_class[:-1]
    with pytest.raises(InputError, match="has no image of class 4: name others"):
        run_study(find_study("zero-shot"), study_config(few, experts, tmp_path / "other"))


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("baseline", {"ipc": (1, 2), "epoch": (1, 2, 3)}, "one --epoch for all, or one for each of the 2"),
        ("baseline", {"ipc": (1, 1), "epoch": (1, 2)}, "an --ipc is given twice"),
        ("baseline", {"epoch": (7,)}, "no checkpoint of epoch 7; it has those of epochs 0-3"),
        ("baseline", {"recipe": ("sr2l",)}, "unknown recipe 'sr2l': known are sre2l"),
        ("baseline", {"lr": (0.0,)}, "lr must be a positive number"),
        ("label-use", {"temperature": ("warm",)}, "temperature is 'warm', expected a number"),
        ("label-use", {"keep": ("6",)}, "keep must be 1 to 5 or all, found '6'"),
        ("label-use", {"label-loss": ("l2",)}, "unknown label-loss l2"),
        ("label-use", {"label-loss": ("gift",), "temperature": ("4",)}, "are for a temperature of 1 and all classes"),
        ("expert-epoch", {"epoch": (7,)}, "no checkpoint of epoch 7"),
        ("temperature", {"temperature": (0.0,)}, "temperature"),
        ("label-swap", {"rank": (5,)}, r"ranks to swap are 1 \(the top class\) to 4, not \[5\]"),
        ("label-swap", {"epoch": (1, 2)}, "one --epoch, not 1, 2"),
        ("data-knowledge", {"top-k": ("6",)}, "top-k must be 1 to 5, all or hard, found '6'"),
        ("data-knowledge", {"rest": ("half",)}, "unknown rest half: known are zero, renormalise, tail"),
        ("data-knowledge", {"epoch": (1, 2)}, "one --epoch, not 1, 2"),
        ("zero-shot", {"class": (5,)}, r"classes are 0 to 4, not \[5\]"),
        ("zero-shot", {"epoch": (1, 2)}, "one --epoch, not 1, 2"),
        ("ensemble", {"members": (3,)}, r"there are 2 experts; members cannot be \[3\]"),
        (
            "ensemble",
            {"rule": ("median",)},
            "unknown rule median: known are mean-logits, mean-probs, scaled-logits, by-",
        ),
        ("selection", {"strategy": ("easy",)}, "unknown strategy easy: known are 0, 1"),
        ("selection", {"epoch": (1, 2)}, "one --epoch, not 1, 2"),
        ("structure", {"epoch": (9,)}, "no checkpoint of epoch 9"),
    ],
)
def test_impossible_grids_are_refused_before_anything_is_written(data, experts, tmp_path, name, grid, message):
    with pytest.raises(InputError, match=message):
        run_study(find_study(name), study_config(data, experts, tmp_path / "out", grid=grid))
    assert not (tmp_path / "out").exists()
