"""Classifiers that can be trained and saved."""
