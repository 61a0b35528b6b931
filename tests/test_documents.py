"""The README keeps its limits; links, paths and imports in the documents exist; examples run; public names stay."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts import count_faults
from tests.stores import make_teacher

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (ROOT, ROOT / "fastlabel", ROOT / "docs")  # what a path in a document may be relative to
WRITTEN = re.compile(r"`([\w.-]+(?:/[\w.*-]+)*/?)`")

PUBLIC = {
    "fastlabel": "Batch FastlabelError LabelPlane LabelStore Mixing SoftLabelDataset SoftLabelLoader SoftLabelLoss "
    "SparseLabels TopKCodec TopKLabels TransformCodec TransformLabels ViewPolicy cache_labels export_teacher label_ops "
    "soft_cross_entropy teacher write_dataset",
    "fastlabel.label_ops": "accuracy_weights average average_logits average_scaled_logits entropy keep_top mix "
    "random_injection remove_class renormalise replace_by_hard shuffle_rest smoothed_like swap top1",
    "fastlabel.train": "NamedRecipe Recipe Reporter Result StudentConfig TeacherConfig find_recipe train_student "
    "train_teacher",
    "fastlabel.teachers": "TeacherSpec",
    "fastlabel.inspection": "Inspection inspect_store",
    "fastlabel.integrity": "repair_store verify_store",
    "fastlabel.studies": "StudyConfig find_study run_study student_recipe",
}
COMMANDS = (
    "write-dataset train-teacher cache-labels train-student inspect import export compare copy verify repair bench "
    "study demo"
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_two_minutes():
    lines = README.read_text().splitlines()
    assert len(lines) <= 100
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert [cell for cell in cells if len(cell) > 80] == []
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w.-]+\.md)\)", README.read_text()))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_exist(page):
    text = page.read_text()
    code = {word for word in WRITTEN.findall(text) if "/" in word and word.endswith((".py", "/"))}
    lost = sorted(word for word in code if not any(next(folder.glob(word.rstrip("/")), None) for folder in FOLDERS))
    # These are files in a store, a run or on a system, not in this repository.
    assert [word for word in lost if word.split("/")[0] not in ("demo-run", "classes", "codes")] == []
    modules = set(re.findall(r"-m ((?:fastlabel|tests)\.[\w.]+)", text)) - {"fastlabel.benchmarks.NAME"}
    assert [module for module in sorted(modules) if find_spec(module.rstrip(".")) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_python_are_python_and_import_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastlabel"):
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), block


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    from fastlabel.dataset.write import write_dataset
    from fastlabel.labelling.cache import cache_labels

    (example,) = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    Path("demo-run").mkdir()
    write_dataset("digits:train", "demo-run/digits-train.beton", progress=False)
    options = {"views": 4, "k": 10, "policy": "pad-crop", "subset": range(128)}
    cache_labels("demo-run/digits-train.beton", "demo-run/labels.zarr", [make_teacher(10, size=8)], **options)
    exec(compile(example, str(README), "exec"), {})
    assert capsys.readouterr().out.startswith("tensor([[")


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay(module):
    names = PUBLIC[module].split()
    assert sorted(import_module(module).__all__) == sorted(names)
    assert all(getattr(import_module(module), name) is not None for name in names)


def test_commands_stay():
    from fastlabel.cli.main import COMMANDS as commands

    assert set(COMMANDS.split()) <= set(commands)
    listed = re.findall(r"^\| `([\w-]+)`(?:, `([\w-]+)`)? \|", README.read_text(), re.M)
    assert {name for row in listed for name in row if name} == set(commands)


def test_at_most_six_modules_stand_beside_the_folders():
    assert len(list((ROOT / "fastlabel").glob("*.py"))) <= 6


def test_the_faults_are_counted():
    page = count_faults.PAGE.read_text()
    assert page == count_faults.with_table(page, count_faults.table(count_faults.tally(ROOT / "tests")))


def test_the_count_sees_marks_alone():
    source = '@pytest.mark.fault("11.2 leak")\n@pytest.mark.slow\ndef test_a(): ...\n\n# @pytest.mark.fault("11.3")\n'
    assert list(count_faults.faults(source)) == ["11.2 leak"]
