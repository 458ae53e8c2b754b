"""Run a model in a plain test, in the test's own process and without a server::

    def test_it_adds() -> None:
        with load_model("models/add_sub", config={"output": [{"name": "SUM"}]}) as model:
            request = pb_utils.InferenceRequest(
                model_name="add_sub",
                requested_output_names=["SUM"],
                inputs=[pb_utils.Tensor("A", np.ones(4)), pb_utils.Tensor("B", np.ones(4))],
            )
            (response,) = model.execute([request])
            assert pb_utils.get_output_tensor_by_name(response, "SUM").as_numpy().tolist() == [2] * 4

The model sees what it would see in a server: its import rules, the arguments of ``initialize``, tensors as they are
received, an ``execute`` whose result is checked. An exception it raises reaches the test as it is.
"""

import contextlib
import json
import os
import sys
from types import ModuleType, TracebackType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Type, Union

import numpy as np

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import hosting
from triton_python_backend_utils._model import Model, WrongReturn, check_returned
from triton_python_backend_utils._request import InferenceRequest
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._tensor import Tensor

__all__ = ["Answer", "LoadedModel", "WrongReturn", "load_model"]

Array = Any  # np.ndarray, whose parameters differ between numpy versions
Answer = Callable[[InferenceRequest], InferenceResponse]
"""Stands for another model: what a request to it is answered with."""


def load_model(
    model_dir: Union[str, "os.PathLike[str]"],
    version: Union[int, str, None] = None,
    *,
    config: Union[str, Mapping[str, Any], None] = None,
    bls: Union[Answer, Mapping[str, Answer], None] = None,
    **args: str,
) -> "LoadedModel":
    """Import a model from ``<model_dir>/<version>`` and initialize it; leaving the result's context finalizes it.

    ``version`` is by default the highest there is. ``config`` is the model's configuration, as a dict or JSON text:
    ``initialize`` gets it as ``args["model_config"]``, with the model's name added. (``config.pbtxt`` is not read.)
    ``args`` replace others of what ``initialize`` gets, such as ``model_instance_kind="GPU"``. ``bls`` answers the
    requests that the model itself makes: one function for all, or one for each model name.

    Raises FileNotFoundError when there is no such version, TypeError for an unknown argument, and whatever the model
    raises.
    """
    model_dir = os.path.abspath(model_dir)
    settings: Dict[str, Any] = dict(json.loads(config) if isinstance(config, str) else config or {})
    name = args.get("model_name") or settings.get("name") or os.path.basename(model_dir)
    settings.setdefault("name", name)
    version = _latest(model_dir) if version is None else str(version)
    all_args = {
        "model_config": json.dumps(settings),
        "model_instance_kind": "CPU",
        "model_instance_name": f"{name}_0_0",
        "model_instance_device_id": "0",
        "model_repository": model_dir,
        "model_version": version,
        "model_name": name,
    }
    unknown = sorted(set(args) - set(all_args))
    if unknown:
        raise TypeError(f"initialize gets no argument '{unknown[0]}'; it gets {', '.join(all_args)}")
    all_args.update(args)
    return LoadedModel(model_dir, version, settings, all_args, bls)


def _latest(model_dir: str) -> str:
    versions = [entry for entry in os.listdir(model_dir) if entry.isdecimal()]
    if not versions:
        raise FileNotFoundError(f"no version of a model in {model_dir}: no directory there is named by a number")
    return max(versions, key=int)


class LoadedModel:
    """A model that is initialized. Several can be loaded at once, and answer each other's calls."""

    def __init__(
        self,
        model_dir: str,
        version: str,
        config: Dict[str, Any],
        args: Dict[str, str],
        bls: Union[Answer, Mapping[str, Answer], None],
    ) -> None:
        self.config = config
        self.args = args
        self.model_dir = os.path.join(model_dir, version)
        path = os.path.join(self.model_dir, config.get("default_model_filename") or "model.py")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Python model file not found in '{path}'")
        self._bls = bls
        self._may_call = False
        self._finalized = False
        self._modules: Dict[str, ModuleType] = {}
        self._path: List[str] = []
        self._root = model_dir + os.sep
        self._outputs = [output["name"] for output in config.get("output", ())]
        with self._at_home():
            self._model = Model(path, self.model_dir, model_dir, version)
            self._model.instantiate()
            self._model.initialize(dict(args))
        self._may_call = True

    @property
    def instance(self) -> Any:
        """The ``TritonPythonModel``."""
        return self._model.instance

    def execute(self, requests: Sequence[InferenceRequest]) -> List[InferenceResponse]:
        """Have the model execute a batch; its responses, with the outputs that were asked for, as a client gets them.

        Raises :class:`WrongReturn` when the model returned anything but a list of one response for each request.
        """
        received = [_received_request(request, self._outputs) for request in requests]
        with self._at_home():
            returned = self._model.execute(received)
            responses = check_returned(returned, received, self.args["model_instance_name"], decoupled=False)
        return [
            _received_response(response, request)
            for response, request in zip(responses, received)
            if response is not None
        ]

    def finalize(self) -> None:
        """Finalize the model, once."""
        if not self._finalized:
            self._finalized = True
            self._may_call = False
            with self._at_home():
                self._model.finalize()

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.finalize()

    # -- the host of the model's calls

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Called by the model's ``request.exec()``."""
        if not self._may_call:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        name = request._model_name
        answer = self._bls.get(name) if isinstance(self._bls, Mapping) else self._bls
        if answer is None:
            raise TritonModelException(f"Nothing answers requests to model '{name}': give load_model() a `bls` for it.")
        received = _received_request(request, [])
        return _received_response(answer(received), received)

    def stream(self, request: InferenceRequest) -> "_OneResponse":
        """Called by the model's ``request.exec(decoupled=True)``."""
        return _OneResponse(self.infer(request))

    def log(self, level: int, origin: str, text: str) -> None:
        """Called by ``pb_utils.Logger``."""
        print(f"{'IWEI'[level]} {origin}] {text}", file=sys.stderr)

    def ask(self, topic: str, *arguments: Any) -> Any:
        """Called by metrics and model control, which need a server."""
        raise TritonModelException(f"There is no server to ask for '{topic}' in a test without one.")

    def tell(self, topic: str, *arguments: Any) -> None:
        """As :meth:`ask`; by finalizers, of which nobody hears."""

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        """The interpreter as a stub has it that runs this model alone; the test gets it back as it was."""
        path, modules = list(sys.path), dict(sys.modules)
        sys.path += self._path
        sys.modules.update(self._modules)
        try:
            with hosting(self):
                yield
        finally:
            self._path = [entry for entry in sys.path if entry not in path]
            sys.path[:] = path
            for name, module in list(sys.modules.items()):
                if module is not modules.get(name) and self._owns(module):
                    self._modules[name] = module
                    del sys.modules[name]
            for name in self._modules:
                if name in modules:
                    sys.modules[name] = modules[name]

    def _owns(self, module: ModuleType) -> bool:
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        return any(isinstance(place, str) and (place + os.sep).startswith(self._root) for place in places)


def _received_request(request: InferenceRequest, all_outputs: List[str]) -> InferenceRequest:
    fields = [
        request.request_id(),
        request.correlation_id(),
        request.flags(),
        request.timeout(),
        request._parameters,
        list(request._requested_output_names),
        [],
    ]
    received = InferenceRequest._received(fields, [_received_tensor(tensor) for tensor in request._inputs], all_outputs)
    received._trace = request.trace()
    return received


def _received_response(response: InferenceResponse, request: InferenceRequest) -> InferenceResponse:
    """A model's response as its client gets it."""
    error = response.error()
    if error is not None:
        return InferenceResponse(error=error)
    wanted = request._requested_output_names
    tensors = [tensor for tensor in response._output_tensors if not wanted or tensor._name in wanted]
    received = InferenceResponse([_received_tensor(tensor) for tensor in tensors])
    received._parameters = response._parameters
    return received


def _received_tensor(tensor: Tensor) -> Tensor:
    name, code, shape, _ = tensor._transmit(_HEAP)
    return Tensor._received(name, code, shape, tensor._data)


class _OneResponse:
    """A call's only response, as a stream."""

    def __init__(self, response: InferenceResponse) -> None:
        self._responses = [response]

    def next(self) -> Optional[InferenceResponse]:
        return self._responses.pop() if self._responses else None

    def cancel(self) -> None:
        """Nothing is under way."""


class _OnHeap:
    """A large tensor's bytes, in this process instead of in shared memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def array(self) -> Array:
        return np.frombuffer(bytearray(self._data), np.uint8)

    pristine = array

    def reference(self) -> List[int]:
        return []


class _Heap:
    """Where large tensors go."""

    def place(self, data: Union[bytes, Array]) -> _OnHeap:
        return _OnHeap(data if isinstance(data, bytes) else data.tobytes())


_HEAP = _Heap()
