"""Crops out of a `.beton` file, as views say, on the CPU or on the device."""
