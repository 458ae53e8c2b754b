"""Triton's frontends over a server of ``tritonserver``: import-compatible."""
