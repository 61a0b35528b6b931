"""One row of labels as class ids and weights: for use inside other Numba kernels."""
