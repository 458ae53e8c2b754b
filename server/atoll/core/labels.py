"""Label files, which name the classes of an output for the classification extension."""

from __future__ import annotations

from pathlib import Path

from atoll.errors import Code, ServerError
from atoll.repository.config import ModelConfig

__all__ = ["read_labels"]


def read_labels(config: ModelConfig, model_dir: Path) -> dict[str, list[str]]:
    """The lines of each output's label file, for the classification extension. Raises ServerError."""
    labels = {}
    for spec in config.outputs.values():
        if spec.label_filename:
            path = model_dir / spec.label_filename
            if not path.resolve().is_relative_to(model_dir.resolve()):
                raise ServerError(
                    Code.UNSUPPORTED,
                    f"label file path '{spec.label_filename}' for output '{spec.name}' in model '{config.name}' is "
                    "outside model directory",
                )
            try:
                labels[spec.name] = path.read_text(errors="replace").splitlines()
            except OSError as error:
                raise ServerError(
                    Code.INTERNAL, f"failed to open text file for read {path}: {error.strerror}"
                ) from error
    return labels
