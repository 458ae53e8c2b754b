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
received, an ``execute`` whose result is checked, response senders, a loop for its coroutines. An exception it raises
reaches the test as it is. What it logs goes to Python's ``logging``, under the name ``pb_utils``; its metrics are kept
here.
"""

import concurrent.futures
import contextlib
import inspect
import json
import logging
import os
import sys
from types import ModuleType, TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Type, Union

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import hosting
from triton_python_backend_utils._local_execution import Batch, Coroutines, received_request, received_response
from triton_python_backend_utils._local_metrics import LocalMetric, LocalMetrics
from triton_python_backend_utils._logger import LogLevel
from triton_python_backend_utils._model import Model, WrongReturn, check_returned
from triton_python_backend_utils._request import InferenceRequest
from triton_python_backend_utils._response import InferenceResponse

__all__ = ["Answer", "LoadedModel", "LocalMetric", "WrongReturn", "load_model"]

Answer = Callable[[InferenceRequest], Union[InferenceResponse, Iterable[InferenceResponse]]]
"""Stands for another model: what a request to it is answered with; several responses for a decoupled one."""

_log = logging.getLogger("pb_utils")
_LEVELS = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}
_TIMEOUT_S = 30.0


def load_model(
    model_dir: Union[str, "os.PathLike[str]"],
    version: Union[int, str, None] = None,
    *,
    config: Union[str, Mapping[str, Any], None] = None,
    bls: Union[Answer, Mapping[str, Answer], None] = None,
    **args: str,
) -> "LoadedModel":
    """Import a model from ``<model_dir>/<version>`` and initialize it; leaving the result's context finalizes it.

    ``version`` is by default the highest there is; without any, ``model.py`` may lie in ``model_dir`` itself.
    ``config`` is the model's configuration, as a dict or JSON text: ``initialize`` gets it as ``args["model_config"]``,
    with the model's name added. (``config.pbtxt`` is not read.) ``args`` replace others of what ``initialize`` gets,
    such as ``model_instance_kind="GPU"``. ``bls`` answers the requests that the model itself makes: one function for
    all, or one for each model name.

    Raises FileNotFoundError when there is no such version, TypeError for an unknown argument, and whatever the model
    raises.
    """
    model_dir = os.path.abspath(model_dir)
    settings: Dict[str, Any] = dict(json.loads(config) if isinstance(config, str) else config or {})
    name = args.get("model_name") or settings.get("name") or os.path.basename(model_dir)
    settings.setdefault("name", name)
    filename = str(settings.get("default_model_filename") or "model.py")
    version_dir = os.path.join(model_dir, str(version)) if version is not None else _latest(model_dir, filename)
    all_args = {
        "model_config": json.dumps(settings),
        "model_instance_kind": "CPU",
        "model_instance_name": f"{name}_0_0",
        "model_instance_device_id": "0",
        "model_repository": model_dir,
        "model_version": "1" if version_dir == model_dir else os.path.basename(version_dir),
        "model_name": name,
    }
    unknown = sorted(set(args) - set(all_args))
    if unknown:
        raise TypeError(f"initialize gets no argument '{unknown[0]}'; it gets {', '.join(all_args)}")
    all_args.update(args)
    path = os.path.join(version_dir, filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Python model file not found in '{path}'")
    return LoadedModel(path, model_dir, settings, all_args, bls)


def _latest(model_dir: str, filename: str) -> str:
    versions = [entry for entry in os.listdir(model_dir) if entry.isdecimal()]
    if versions:
        return os.path.join(model_dir, max(versions, key=int))
    if os.path.isfile(os.path.join(model_dir, filename)):
        return model_dir
    raise FileNotFoundError(f"no version of a model in {model_dir}: no directory there is named by a number")


class LoadedModel:
    """A model that is initialized. Several can be loaded at once, and answer each other's calls."""

    def __init__(
        self,
        path: str,
        model_dir: str,
        config: Dict[str, Any],
        args: Dict[str, str],
        bls: Union[Answer, Mapping[str, Answer], None],
    ) -> None:
        self.config = config
        self.args = args
        self.model_dir = os.path.dirname(path)
        self._bls = bls
        self._may_call = False
        self._finalized = False
        self._modules: Dict[str, ModuleType] = {}
        self._path: List[str] = []
        self._root = model_dir + os.sep
        self._outputs = [output["name"] for output in config.get("output", ())]
        self._decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
        self._coroutines = Coroutines()
        self._metrics = LocalMetrics()
        with self._at_home():
            self._model = Model(path, self.model_dir, model_dir, args["model_version"])
            self._model.instantiate()
            self._model.initialize(dict(args))
        self._may_call = True

    @property
    def instance(self) -> Any:
        """The ``TritonPythonModel``."""
        return self._model.instance

    def execute(self, requests: Sequence[InferenceRequest], timeout_s: float = _TIMEOUT_S) -> List[Any]:
        """Have the model execute a batch; its responses, with the outputs that were asked for, as a client gets them.

        One response for each request, whether the model returned it or sent it; of a decoupled model a list of
        responses for each. Waits until every request is answered to the end, by whatever thread or coroutine; a
        request that the model wants to see again is executed again.

        Raises :class:`WrongReturn` when the model returned what it may not, TimeoutError when an answer is missing
        after ``timeout_s``, and whatever the model raises.
        """
        responses: List[List[InferenceResponse]] = [[] for _ in requests]
        places = list(range(len(requests)))
        with self._at_home():
            while places:
                batch = Batch([requests[place] for place in places], self._outputs, self._decoupled)
                self._run(batch, timeout_s)
                for place, answered in zip(places, batch.responses):
                    responses[place] += answered
                places = [places[index] for index in batch.rescheduled]
        return responses if self._decoupled else [response for (response,) in responses]

    def _run(self, batch: Batch, timeout_s: float) -> None:
        """Have the model execute a batch, and wait for the last answer."""
        background: Optional[concurrent.futures.Future[Any]] = None
        returned = self._model.execute(batch.received)
        if inspect.iscoroutine(returned):
            future = self._coroutines.start(returned)
            if self._decoupled:
                background, returned = future, None
                future.add_done_callback(batch.wake)
            else:
                try:
                    returned = future.result(timeout_s)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        raise
                    raise TimeoutError(f"execute() has not ended {timeout_s:g} s on") from None
        name = self.args["model_instance_name"]
        batch.settle(check_returned(returned, batch.received, name, self._decoupled))
        del returned

        def failure() -> Optional[BaseException]:
            return background.exception() if background is not None and background.done() else None

        batch.wait(timeout_s, failure)

    def is_ready(self) -> bool:
        """Ask the model's own ``is_ready``; True when it has none. Raises :class:`WrongReturn` for what is no bool."""
        check = getattr(self._model.instance, "is_ready", None)
        if not callable(check):
            return True
        with self._at_home():
            ready = check()
            if inspect.iscoroutine(ready):
                ready = self._coroutines.start(ready).result()
        if type(ready) is not bool:
            raise WrongReturn("is_ready() must return a boolean value")
        return ready

    def metric(self, name: str, labels: Optional[Mapping[str, str]] = None) -> LocalMetric:
        """A metric that the model made: its ``value``, or what it has ``observed``. Raises KeyError without one."""
        return self._metrics.find(name, labels or {})

    def finalize(self) -> None:
        """Finalize the model, once."""
        if not self._finalized:
            self._finalized = True
            self._may_call = False
            with self._at_home():
                self._coroutines.stop()
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
        answer = self._answer(request)
        if not isinstance(answer, InferenceResponse):
            raise TritonModelException(
                f"Requests to model '{request._model_name}' are answered as by a decoupled model: call it with "
                "exec(decoupled=True)."
            )
        return received_response(answer, request._requested_output_names)

    def stream(self, request: InferenceRequest) -> "_Stream":
        """Called by the model's ``request.exec(decoupled=True)``."""
        answer = self._answer(request)
        responses = [answer] if isinstance(answer, InferenceResponse) else answer
        return _Stream(received_response(response, request._requested_output_names) for response in responses)

    def _answer(self, request: InferenceRequest) -> Union[InferenceResponse, Iterable[InferenceResponse]]:
        if not self._may_call:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        name = request._model_name
        answer = self._bls.get(name) if isinstance(self._bls, Mapping) else self._bls
        if answer is None:
            raise TritonModelException(f"Nothing answers requests to model '{name}': give load_model() a `bls` for it.")
        return answer(received_request(request, []))

    def log(self, level: int, origin: str, text: str) -> None:
        """Called by ``pb_utils.Logger``."""
        number = _LEVELS[LogLevel(level)]
        if _log.isEnabledFor(number):
            file, _, line = origin.rpartition(":")
            _log.handle(_log.makeRecord(_log.name, number, file, int(line), text, (), None))

    def ask(self, topic: str, *arguments: Any) -> Any:
        """Called by metrics, and by model control, which needs a server."""
        if not self._metrics.answers(topic):
            raise TritonModelException(f"There is no server to ask for '{topic}' in a test without one.")
        return self._metrics.perform(topic, arguments)

    def tell(self, topic: str, *arguments: Any) -> None:
        """As :meth:`ask`; by finalizers."""
        self.ask(topic, *arguments)

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


class _Stream:
    """The responses of a call as they come."""

    def __init__(self, responses: Iterator[InferenceResponse]) -> None:
        self._responses = responses

    def next(self) -> Optional[InferenceResponse]:
        return next(self._responses, None)

    def cancel(self) -> None:
        """Whoever answers is not told: it answers when it is asked."""
