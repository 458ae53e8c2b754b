"""Model control from a model (original 23.07): load, unload, and whether a model is ready."""

from typing import Any, Dict, Optional

from triton_python_backend_utils._arguments import boolean, text
from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import get_host

__all__ = ["is_model_ready", "load_model", "unload_model"]


def load_model(model_name: str, config: str = "", files: Optional[Dict[str, bytes]] = None) -> None:
    """Load a model, or load it again, and wait until it is ready.

    ``config`` is a configuration as JSON that stands in for the model's own; ``files`` maps ``file:<version>/<path>``
    to contents that stand in for the model's directory. Raises :class:`TritonModelException` when it cannot be loaded;
    what was loaded before then stays.
    """
    name = text(model_name, "model_name")
    if files is not None and not isinstance(files, dict):
        raise TritonModelException(
            f"failed to load model '{name}', files should be a dictionary of file paths and file contents"
        )
    contents = {}
    for path, content in (files or {}).items():
        if not isinstance(content, bytes):
            raise TypeError(f"the content of {path!r} must be bytes, not {type(content).__name__}")
        contents[text(path, "path")] = content
    _ask("Failed to load model: ", "load_model", name, text(config, "config"), contents)


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Begin to unload a model; ``unload_dependents`` takes the models an ensemble is made of along."""
    arguments = text(model_name, "model_name"), boolean(unload_dependents, "unload_dependents")
    _ask("Failed to unload model: ", "unload_model", *arguments)


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model serves; its latest version, or ``model_version``.

    Raises :class:`TritonModelException` for a model that is not known.
    """
    name, version = text(model_name, "model_name"), text(model_version, "model_version")
    return bool(_ask("Failed to check model readiness: ", "is_model_ready", name, version))


def _ask(prefix: str, topic: str, *arguments: Any) -> Any:
    try:
        return get_host().ask(topic, *arguments)
    except TritonModelException as error:
        raise TritonModelException(prefix + str(error)) from None
