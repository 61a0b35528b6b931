from __future__ import annotations

import csv
import io

from PIL import Image

from fastlabel.studies.report import Report, Table, lines_panel, percent, write_results
from fastlabel.studies.results import Student, Students

ROWS = Students(
    [
        Student(
            {"ipc": ipc, "labels": labels}, repeat, {"accuracy": 0.1 * ipc + 0.01 * repeat, "by_class": [0.25, 1.0]}
        )
        for ipc in (1, 2, 4)
        for labels in ("soft", "hard")
        for repeat in range(2)
    ]
    + [Student({"ipc": 8, "epoch": 3}, 0, {"accuracy": 0.5, "by_class": [0, 0], "class_accuracy": 0.125})]
)
TABLE = Table("What it shows.", ["a", "long header"], [["1", "2"], ["333", "4"]])


def written(out, report):
    write_results(out, "A question?", {"Command": "`fastlabel study`", "Time": "3 s"}, ROWS, report)
    return out


def test_the_csv_has_a_line_for_each_student(tmp_path):
    lines = list(csv.DictReader(io.StringIO((written(tmp_path, Report([], [])) / "results.csv").read_text())))
    assert len(lines) == len(ROWS)
    assert list(lines[0]) == ["ipc", "labels", "epoch", "repeat", "accuracy", "by_class", "class_accuracy"]
    for line, row in zip(lines, ROWS, strict=True):
        assert float(line["accuracy"]) == row.result["accuracy"] and int(line["repeat"]) == row.repeat
        assert line["labels"] == row.cell.get("labels", "")
        assert [float(share) for share in line["by_class"].split()] == row.result["by_class"]
    assert (lines[0]["epoch"], lines[0]["class_accuracy"]) == ("", "") and lines[-1]["class_accuracy"] == "0.125"


def test_the_report_is_markdown_with_facts_tables_and_findings(tmp_path):
    panel = lines_panel(ROWS[:-1], "ipc", "labels", "Title", "images per class", log=True)
    text = (written(tmp_path, Report([TABLE], ["It works."], [panel])) / "report.md").read_text()
    assert text.startswith("# A question?\n\n- **Command**: `fastlabel study`\n- **Time**: 3 s\n")
    assert "What it shows.\n\n| a | long header |\n| --- | --- |\n| 1 | 2 |\n| 333 | 4 |\n" in text
    assert "![The results as a figure](figure.png)" in text and text.endswith("## Findings\n\n- It works.\n")


def test_a_report_without_panels_or_findings_names_neither(tmp_path):
    text = (written(tmp_path, Report([TABLE], [])) / "report.md").read_text()
    assert "figure" not in text and "Findings" not in text
    assert not (tmp_path / "figure.png").exists()


def test_the_figure_has_a_panel_beside_the_other(tmp_path):
    panel = lines_panel(ROWS[:-1], "ipc", None, "Title", "images per class")
    sizes = []
    for count in (1, 2):
        path = written(tmp_path, Report([], [], [panel] * count)) / "figure.png"
        with Image.open(path) as image:
            image.load()
            sizes.append(image.size)
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert sizes[1][0] == 2 * sizes[0][0]


def test_a_panel_draws_means_and_deviations():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    lines_panel(ROWS[:-1], "ipc", "labels", "Title", "images per class", log=True)(axes)
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
    assert len(lines) == 2 and axes.get_xscale() == "log"
    assert list(lines[0].get_xdata()) == [1, 2, 4]
    assert [round(float(y), 9) for y in lines[0].get_ydata()] == [10.5, 20.5, 40.5]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["soft", "hard"]


def test_text_is_aligned():
    assert TABLE.text() == "  a  long header\n  1            2\n333            4"


def test_percent():
    assert (percent(0.56), percent(1), percent(0.1249)) == ("56.0", "100.0", "12.5")
