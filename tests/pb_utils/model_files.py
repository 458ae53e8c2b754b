"""Models written for one test each, and requests to them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from triton_python_backend_utils import InferenceRequest, Tensor

__all__ = ["Write", "ask"]

HEAD = """
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
"""


class Write:
    """Writes models below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, body: str, name: str = "m", version: str = "1", head: str = HEAD, **files: str) -> Path:
        """The folder of a model whose class has this body; ``files`` are modules beside it."""
        folder = self._folder / name / version
        folder.mkdir(parents=True, exist_ok=True)
        source = textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    ")
        (folder / "model.py").write_text(source)
        for stem, text in files.items():
            (folder / f"{stem}.py").write_text(text)
        return self._folder / name


def ask(*arrays: Any, model_name: str = "m", outputs: Any = (), **fields: Any) -> InferenceRequest:
    inputs = [Tensor(f"IN{index}", array) for index, array in enumerate(arrays)]
    return InferenceRequest(model_name=model_name, requested_output_names=list(outputs), inputs=inputs, **fields)
