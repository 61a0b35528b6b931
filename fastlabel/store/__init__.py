"""The label store, a Zarr v3 group: the only folder that imports zarr."""
