"""Atoll: a host for Triton-style ``model.py`` repositories."""

__all__ = ["__version__"]

__version__ = "0.1.0"
