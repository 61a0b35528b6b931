"""Is a store sound, and how is it made sound again: `verify` and `repair`."""
