"""The machine under a run: files, processes, signals, devices."""
