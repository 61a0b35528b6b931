"""Making the labels of a store: units, forward passes, `cache_labels`."""
