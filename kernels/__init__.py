"""Operators: one folder per op, with a reference, a CPU kernel (Numba) and a place for a GPU one (Triton).

Imports torch, numpy, numba (and its llvmlite) and triton, nothing of fastlabel. Import an op from its folder:
`from fastlabel.kernels.encode_topk import encode_topk`. Its kernels, and Numba or Triton with them, are imported when
the op first runs.
"""

from __future__ import annotations

import os
import sys

from fastlabel.kernels.common.tbb import load_packaged_tbb


def _require_threadsafe_layer() -> None:
    """Leave Numba TBB or OpenMP: its `workqueue` layer aborts when two threads run parallel kernels."""
    safe = ("tbb", "omp", "safe", "threadsafe")
    if os.environ.get("NUMBA_THREADING_LAYER") not in safe:
        os.environ["NUMBA_THREADING_LAYER"] = "threadsafe"
    if "numba" not in sys.modules:  # it reads that when it is imported
        return
    import numba

    options = vars(numba.config)  # numba makes them as it is imported: type checkers do not know them
    if options["THREADING_LAYER"] not in safe:
        options["THREADING_LAYER"] = "threadsafe"
    try:
        running = numba.threading_layer()
    except ValueError:  # nothing parallel has run yet: the line above decides
        return
    if running == "workqueue":
        raise RuntimeError(
            "Numba already runs its 'workqueue' threading layer, which aborts when two threads meet in it; "
            "import fastlabel before other Numba code, or set NUMBA_THREADING_LAYER=threadsafe"
        )


load_packaged_tbb()
_require_threadsafe_layer()
