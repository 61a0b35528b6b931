"""Count the tests marked `fault`, which hold mended faults, and write the table of docs/reliability.md.

python scripts/count_faults.py            # prints the table
python scripts/count_faults.py --write    # puts it into the page
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- scripts/count_faults.py writes from here -->\n", "<!-- to here -->"


def faults(source: str) -> Iterator[str]:
    """The argument of each `@pytest.mark.fault("...")` on a test function of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    yield ast.literal_eval(mark.args[0])


def tally(tests: Path) -> dict[str, int]:
    """Test functions of each fault, ordered by its number."""
    found: dict[str, int] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for fault in faults(path.read_text()):
            found[fault] = found.get(fault, 0) + 1
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0].split()[0])]))


def table(counts: dict[str, int]) -> str:
    """A row for each fault: its name, and the number of test functions that hold it."""
    lines = ["| fault | tests |", "| --- | --- |"]
    lines += [f"| {name.partition(' ')[2]} ({name.partition(' ')[0]}) | {count} |" for name, count in counts.items()]
    return "\n".join([*lines, f"| all | {sum(counts.values())} |", ""])


def with_table(page: str, text: str) -> str:
    """The page with another table between its two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    text = table(tally(ROOT / "tests"))
    if "--write" in sys.argv:
        PAGE.write_text(with_table(PAGE.read_text(), text))
    else:
        sys.stdout.write(text)
