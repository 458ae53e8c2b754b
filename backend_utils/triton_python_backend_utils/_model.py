"""The user's model: importing ``model.py`` under the original's rules, and the life of its ``TritonPythonModel``."""

import importlib.util
import os
import sys
import types
from typing import Any, Dict, List, Optional

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._request import RELEASE_RESCHEDULE, InferenceRequest
from triton_python_backend_utils._response import InferenceResponse

__all__ = ["Model", "WrongReturn", "check_returned"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Where pb_utils lies."""


class WrongReturn(TritonModelException):
    """``execute`` broke its contract; the text is the whole message, without frames."""


class Model:
    """One ``TritonPythonModel``: its file is imported, then it is instantiated, then called for each step of its life.

    Adds the folders that the model may import from to the end of ``sys.path``.
    """

    def __init__(self, path: str, version_dir: str, model_dir: str, version: str) -> None:
        if not path.endswith(".py"):
            raise TritonModelException(f"Model name must end with '.py'. Model name is \"{os.path.basename(path)}\".")
        self.path = path
        sys.path += [version_dir, model_dir, _OURS]
        self.module = _import_submodule(path, version_dir, version)
        self.instance: Any = None

    @classmethod
    def of_backend(cls, path: str) -> "Model":
        """What a Python-based backend makes of any of its models: its own file, which finds the model's by itself."""
        model = cls.__new__(cls)
        model.path = path
        sys.path += [os.path.dirname(path), _OURS]
        model.module = _import_file(path, os.path.splitext(os.path.basename(path))[0])
        model.instance = None
        return model

    def instantiate(self) -> None:
        self.instance = self.module.TritonPythonModel()

    def initialize(self, args: Dict[str, str]) -> None:
        if hasattr(self.instance, "initialize"):
            self.instance.initialize(args)

    def finalize(self) -> None:
        if hasattr(self.instance, "finalize"):
            self.instance.finalize()

    def execute(self, requests: List[InferenceRequest]) -> Any:
        """What the model's ``execute`` returns, or a coroutine of it; see :func:`check_returned`."""
        execute = getattr(self.instance, "execute", None)
        if execute is None:
            raise WrongReturn(f"Python model {self.path} does not implement `execute` method.")
        return execute(requests)


def check_returned(
    returned: Any, requests: List[InferenceRequest], name: str, decoupled: bool
) -> List[Optional[InferenceResponse]]:
    """For each request the response that ``execute`` returned, None where there is none (yet).

    ``name`` is the instance's. Raises :class:`WrongReturn` when the model returned what it may not.
    """
    if returned is None:
        return [None] * len(requests)
    if decoupled:
        raise WrongReturn(
            f"Python model '{name}' is using the decoupled mode and the execute function must return None."
        )
    if not isinstance(returned, list):
        raise WrongReturn(f"Expected a list in the execute return, found type '{type(returned)}'.")
    if len(returned) != len(requests):
        raise WrongReturn(
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            f"InferenceRequest(s) size is:{len(requests)}, and InferenceResponse(s) size is:{len(returned)}\n"
        )
    for response, request in zip(returned, requests):
        if response is None:
            continue
        if request._release_flags == RELEASE_RESCHEDULE:
            raise WrongReturn(
                "Expected a None object in the execute function return list for reschduled request, found type "
                f"'{type(response)}'."
            )
        if not isinstance(response, InferenceResponse):
            raise WrongReturn(
                "Expected an 'InferenceResponse' object in the execute function return list, found type "
                f"'{type(response)}'."
            )
    return returned


def _import_submodule(path: str, version_dir: str, version: str) -> types.ModuleType:
    """Import as ``<version>.<stem>``, so that ``import sibling`` and ``from . import sibling`` both work.

    A folder called like the version in the working directory must not take its place.
    """
    package = types.ModuleType(version)
    package.__path__ = [version_dir]
    sys.modules[version] = package
    return _import_file(path, f"{version}.{os.path.splitext(os.path.basename(path))[0]}")


def _import_file(path: str, name: str) -> types.ModuleType:
    """Import by file location, not by searching."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
