"""Where the models of the embedding example lie."""

from pathlib import Path

__all__ = ["EXAMPLE_MODELS"]

EXAMPLE_MODELS = Path(__file__).resolve().parents[2] / "examples" / "embedding" / "models"
