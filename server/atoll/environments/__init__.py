"""Execution environments: the Python, and the packages, that a model's instances run with."""
