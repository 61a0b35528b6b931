"""The machine under a run, and what its callers give: files, processes, signals, devices, arguments."""
