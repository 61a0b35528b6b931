"""exp in float32, as instructions that LLVM can vectorise: for use inside other Numba kernels."""
