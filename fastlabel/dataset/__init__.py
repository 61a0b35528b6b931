"""The `.beton` file: what it is made of, how it is written, what its tables say."""
