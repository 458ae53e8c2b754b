"""The user's model: importing ``model.py`` under the original's rules, and the life of its ``TritonPythonModel``."""

import importlib.util
import os
import sys
import traceback
import types
from typing import Any, Dict, List

from triton_python_backend_utils import InferenceRequest, InferenceResponse, TritonModelException

__all__ = ["Model", "render_exception"]


def render_exception(error: BaseException) -> str:
    """An exception as a client reads it: type and text, then the frames, innermost first."""
    lines = [f"{type(error).__name__}: {str(error) or '<EMPTY MESSAGE>'}", "", "At:"]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_OWN_FOLDER, "<frozen importlib")):
            lines.append(f"  {frame.filename}({frame.lineno}): {frame.name}")
    return "\n".join(lines) + "\n"


_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Model:
    """One ``TritonPythonModel``: made by importing its file, then called for each step of its life."""

    def __init__(self, path: str, version_dir: str, model_dir: str, version: str) -> None:
        if not path.endswith(".py"):
            raise TritonModelException(f"Model name must end with '.py'. Model name is \"{os.path.basename(path)}\".")
        self.path = path
        sys.path += [version_dir, model_dir, _utils_folder()]
        module = _import_file(path, version_dir, version)
        self._instance: Any = module.TritonPythonModel()

    def initialize(self, args: Dict[str, str]) -> None:
        if hasattr(self._instance, "initialize"):
            self._instance.initialize(args)

    def finalize(self) -> None:
        if hasattr(self._instance, "finalize"):
            self._instance.finalize()

    def execute(self, requests: List[InferenceRequest]) -> List[InferenceResponse]:
        """Run the batch; raises :class:`WrongReturn` when what came back is not a response per request."""
        execute = getattr(self._instance, "execute", None)
        if execute is None:
            raise WrongReturn(f"Python model {self.path} does not implement `execute` method.")
        responses = execute(requests)
        if type(responses) is not list:
            raise WrongReturn(f"Expected a list in the execute return, found type '{type(responses)}'.")
        if len(responses) != len(requests):
            raise WrongReturn(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(requests)}, and InferenceResponse(s) size is:{len(responses)}\n"
            )
        for response in responses:
            if not isinstance(response, InferenceResponse):
                raise WrongReturn(
                    "Expected an 'InferenceResponse' object in the execute function return list, found type "
                    f"'{type(response)}'."
                )
        return responses


class WrongReturn(Exception):
    """``execute`` broke its contract; the text is the whole message, without frames."""


def _utils_folder() -> str:
    import triton_python_backend_utils

    return os.path.dirname(os.path.dirname(os.path.abspath(triton_python_backend_utils.__file__)))


def _import_file(path: str, version_dir: str, version: str) -> types.ModuleType:
    """Import as ``<version>.<stem>``, so that ``import sibling`` and ``from . import sibling`` both work.

    By file location: a folder called like the version in the working directory must not take its place.
    """
    package = types.ModuleType(version)
    package.__path__ = [version_dir]
    sys.modules[version] = package
    name = f"{version}.{os.path.splitext(os.path.basename(path))[0]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
