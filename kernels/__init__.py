"""Operators: one folder per op, each with a reference, a CPU kernel (Numba) and a place for a GPU kernel (Triton).

Imports torch, numpy, numba and triton, nothing of fastlabel. Import an op from its folder:
`from fastlabel.kernels.encode_topk import encode_topk`.
"""

from __future__ import annotations

import numba


def _require_threadsafe_layer() -> None:
    """Let Numba choose TBB or OpenMP only: its `workqueue` layer aborts when two threads run parallel kernels."""
    if numba.config.THREADING_LAYER not in ("tbb", "omp", "safe", "threadsafe"):
        numba.config.THREADING_LAYER = "threadsafe"
    try:
        running = numba.threading_layer()
    except ValueError:  # nothing parallel has run yet: the line above decides
        return
    if running == "workqueue":
        raise RuntimeError(
            "Numba already runs its 'workqueue' threading layer, which aborts the process when two threads meet in it; "
            "import fastlabel before other Numba code, or set NUMBA_THREADING_LAYER=threadsafe"
        )


_require_threadsafe_layer()
