"""One model instance in its process: loads the model, obeys the supervisor's commands, is the host of ``pb_utils``."""

import json
import os
import socket
import sys
import threading
from typing import Any, Callable, Dict, Optional, Tuple

from atoll_ipc.wire import Kind
from triton_python_backend_utils import InferenceRequest, InferenceResponse, ModelConfig, TritonModelException
from triton_python_backend_utils._host import log_through_host, set_host
from triton_python_backend_utils._iterator import ResponseSource
from triton_python_backend_utils._logger import LogLevel
from triton_python_backend_utils._model import Model

from atoll_stub.calls import Caller
from atoll_stub.channel import Channel
from atoll_stub.execution import Executor
from atoll_stub.readiness import ReadinessChecker
from atoll_stub.rendering import render_exception
from atoll_stub.side_door import Line
from atoll_stub.surroundings import apply_surroundings

__all__ = ["Instance"]

Message = Any


class Instance:
    """Runs one model and is the host its ``pb_utils`` calls reach."""

    def __init__(self, channel: Channel, door: Optional[socket.socket] = None) -> None:
        """``door`` is for processes that the model forks; those must call ``after_fork``."""
        self.model_dir = ""
        self._channel = channel
        self._line = Line(channel, door)
        self.after_fork = self._line.after_fork
        self._caller = Caller(self._line)
        self._executor: Optional[Executor] = None
        self._model: Optional[Model] = None
        self._serving = False  # from initialize on, log lines go to the server

    def run(self) -> None:
        """Until FINALIZE, or EOFError when the supervisor is gone."""
        self._channel.store.executing_thread = threading.get_ident()
        while True:
            message = self._channel.next_command()
            kind = message[0]
            if kind == Kind.EXECUTE:
                assert self._executor is not None
                self._executor.execute(message[1], message[2], message[5])
            elif kind == Kind.LOAD:
                error, facts = self._load(message[1])
                self._channel.send([Kind.LOADED, error, facts])
                if error is not None or self._executor is None:
                    return
            elif kind == Kind.FINALIZE:
                self._finalize()
                return

    def _load(self, settings: Dict[str, Any]) -> Tuple[Optional[str], Dict[str, Any]]:
        """Load as told: an error's text or None, and what the supervisor should know."""
        self.model_dir = settings["version_dir"]
        backend_file = settings.get("backend_file")
        path = backend_file or os.path.join(self.model_dir, settings["filename"])
        if not os.path.isfile(path):
            return f"Failed to preinitialize Python stub: Python model file not found in '{path}'", {}
        set_host(self)
        try:
            apply_surroundings(settings["surroundings"])
        except (OSError, ValueError) as error:
            return f"The stub process cannot be what the model's parameters say: {error}", {}
        try:
            args = settings["args"]
            if backend_file:
                model = Model.of_backend(path)
            else:
                model = Model(path, self.model_dir, args["model_repository"], args["model_version"])
            if settings["auto_complete"]:
                return None, {"config": _auto_complete(model, args)}
            self._model = model
            model.instantiate()
            self._serving = True
            model.initialize(args)
        except BaseException as error:
            return render_exception(error), {}
        self._executor = Executor(self._channel, model, settings["name"], settings["outputs"], settings["decoupled"])
        self._caller.allowed = True
        checks = callable(getattr(model.instance, "is_ready", None))
        if checks:
            ReadinessChecker(self._channel, model, self._executor.coroutines).start()
        return None, {"is_ready": checks}

    def _finalize(self) -> None:
        self._caller.allowed = False
        assert self._model is not None
        assert self._executor is not None
        self._executor.stop()
        try:
            self._model.finalize()
        except BaseException as error:
            print(f"Failed to finalize the model: {render_exception(error)}", flush=True)

    # -- triton_python_backend_utils._host.Host

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        return self._caller.infer(request)

    def stream(self, request: InferenceRequest) -> ResponseSource:
        return self._caller.stream(request)

    def log(self, level: int, origin: str, text: str) -> None:
        if self._serving or level == LogLevel.VERBOSE:  # only the server knows whether such lines are wanted
            self._line.channel().send([Kind.LOG, level, origin, text])
        else:
            _without_host(lambda: log_through_host(level, origin, text), self)

    def ask(self, topic: str, *arguments: Any) -> Any:
        if self._model is None:
            raise TritonModelException("The server cannot be asked during auto-complete.")
        return self._caller.ask(topic, list(arguments))

    def tell(self, topic: str, *arguments: Any) -> None:
        self._caller.tell(topic, list(arguments))


def _auto_complete(model: Model, args: Dict[str, str]) -> Optional[str]:
    """What the model's ``auto_complete_config`` makes of its configuration, as JSON; None when it has none."""
    hook: Optional[Callable[[ModelConfig], Any]] = getattr(model.module.TritonPythonModel, "auto_complete_config", None)
    if hook is None:
        return None
    completed = hook(ModelConfig(args["model_config"]))
    if not isinstance(completed, ModelConfig):
        raise TritonModelException(
            f"auto_complete_config function in model '{args['model_name']}' must return a valid pb.ModelConfig object."
        )
    return json.dumps(completed.as_dict())


def _without_host(action: Callable[[], None], host: Instance) -> None:
    set_host(None)
    try:
        action()
    finally:
        set_host(host)
        sys.stderr.flush()
