"""Helpers that several ops share; not ops themselves."""
