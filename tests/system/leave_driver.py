"""What each rank runs in tests/system/test_ranks.py: it talks, ends, and tells which of gloo's threads are left."""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

from fastlabel.system.ranks import Ranks


def gloo_threads() -> list[str]:
    """The names of this process's threads that gloo started."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def talk(folder: Path) -> None:
    with Ranks.current().group() as ranks:
        (folder / f"talks-{ranks.rank}").write_text(" ".join(gloo_threads()))
        ranks.agree("the end")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    rank = Ranks.current().rank
    atexit.register(lambda: (folder / f"ended-{rank}").write_text(" ".join(gloo_threads())))
    talk(folder)
