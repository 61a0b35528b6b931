"""bfloat16 and float16 to float32 and back, as integer operations that LLVM can vectorise."""
