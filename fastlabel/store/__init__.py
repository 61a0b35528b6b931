"""The label store, a Zarr v3 group on a file system: its format, its one reader, writing, growing, copying."""
