"""`make gpu-check`: what only a GPU can tell, in four parts, from a checkout and the kit of `scripts/gpu_kit.sh`."""
