"""What each rank adds to a saved state: its random numbers, and its sums of the epoch begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastlabel.system.ranks import Ranks
from fastlabel.train.epoch_metrics import Tally


def snapshot(device: torch.device, tally: Tally | None) -> dict[str, Any]:
    """This rank's share of a saved state; without a tally, between two epochs."""
    rng = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(device)
    return {"rng": rng, "tally": None if tally is None else tally.state_dict()}


def restore_rank(saved: Sequence[Mapping[str, Any]], ranks: Ranks, device: torch.device, tally: Tally) -> None:
    """Take up this rank's share of the state that all ranks saved.

    With another number of ranks, rank 0 takes over the sums, and ranks that were not there keep the random numbers
    that they were seeded with.
    """
    rank = ranks.rank
    if rank < len(saved):
        rng = saved[rank]["rng"]
        torch.set_rng_state(rng["cpu"])
        if device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], device)
    tallies = [share["tally"] for share in saved]
    if tallies[0] is None:
        return
    if len(saved) == ranks.world_size:
        tally.load_state_dict(tallies[rank])
    elif ranks.first:
        tally.load_state_dict(*tallies)
    else:
        tally.load_state_dict(tallies[0] | {"images": 0, "loss_sum": 0.0, "hits": 0})
