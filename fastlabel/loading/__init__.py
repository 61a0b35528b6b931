"""Batches of crops with their labels, epoch by epoch."""
