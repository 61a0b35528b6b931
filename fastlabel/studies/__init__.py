"""The experiments of "A Label is Worth a Thousand Images in Dataset Distillation" (arXiv 2406.10485), on cached labels.

Each study is a grid of cells; in each cell some students train on a small set of images in memory and are tested.
"""
