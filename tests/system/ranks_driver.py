"""What each rank runs in tests/system/test_ranks.py."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from fastlabel.system.ranks import Ranks


def fail() -> None:
    raise KeyError("broken")


def failure(action: object) -> str:
    try:
        assert callable(action)
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    found: dict[str, object] = {}
    with Ranks.current().group() as ranks:
        rank = ranks.rank
        found["agree"] = ranks.agree(f"of {rank}")
        found["gather"] = ranks.gather({"rank": rank})
        found["sum"] = ranks.sum([0.5, rank])
        found["largest"] = ranks.largest(rank, -rank)
        found["first"] = ranks.on_first(lambda: rank)
        found["failure"] = failure(lambda: ranks.on_first(fail))
    with Ranks.current().group(timedelta(minutes=1)) as again:
        found["again"] = [again == ranks, again.gather(rank), again.control is not ranks.control]
        if rank == 0:
            found["lost"] = failure(lambda: again.gather(rank))
        else:
            dist.destroy_process_group()  # ends as a process does that died
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # a rank that lost another does not take its group down: gloo may abort the process
