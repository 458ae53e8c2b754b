"""``Server``: a server inside this process."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from atoll.embedding.server import EmbeddedServer

from tritonserver._api._logging import LogLevel
from tritonserver._api._model import Model, ModelDictionary
from tritonserver._api._options import ModelLoadDeviceLimit, Options, RateLimiterResource
from tritonserver._c.enums import TRITONSERVER_MetricFormat, TRITONSERVER_ModelIndexFlag
from tritonserver._c.errors import InvalidArgumentError, UnavailableError
from tritonserver._c.server import TRITONSERVER_Server
from tritonserver._c.values import TRITONSERVER_Parameter

__all__ = ["LogLevel", "ModelDictionary", "ModelLoadDeviceLimit", "Options", "RateLimiterResource", "Server"]


class Server:
    """``Server(options)`` or ``Server(model_repository=…, …)``; nothing starts before :meth:`start`."""

    def __init__(self, options: Options | None = None, **kwargs: Any) -> None:
        self.options = Options(**kwargs) if options is None else options
        self._server: TRITONSERVER_Server | None = None

    @property
    def _running(self) -> TRITONSERVER_Server:
        if self._server is None:
            raise InvalidArgumentError("Server not started")
        return self._server

    def _ptr(self) -> EmbeddedServer:
        """For frontends."""
        return self._running._ptr()

    # -- life

    def start(
        self, wait_until_ready: bool = False, polling_interval: float = 0.1, timeout: float | None = None
    ) -> Server:
        """Load the models. Raises TritonError; with ``wait_until_ready``, past ``timeout`` seconds UnavailableError."""
        if self._server is not None:
            raise InvalidArgumentError("Server already started")
        self._server = TRITONSERVER_Server(self.options._create_tritonserver_server_options())
        deadline = None if timeout is None else time.monotonic() + timeout
        while wait_until_ready and not self.ready():
            if deadline is not None and time.monotonic() > deadline:
                raise UnavailableError("Timeout before ready")
            time.sleep(polling_interval)
        return self

    def stop(self) -> None:
        """Finish what is in flight and end every process; it may be started again after that."""
        self._running.stop()
        self._server = None

    def __enter__(self) -> Server:
        """Ours: starts a server that is not started; leaving the block stops it."""
        return self if self._server is not None else self.start(wait_until_ready=True)

    def __exit__(self, *failure: object) -> None:
        if self._server is not None:
            self.stop()

    # -- state

    def live(self) -> bool:
        return self._running.is_live()

    def ready(self) -> bool:
        return self._running.is_ready()

    def metadata(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._running.metadata().serialize_to_json())
        return document

    def metrics(self, metric_format: TRITONSERVER_MetricFormat = TRITONSERVER_MetricFormat.PROMETHEUS) -> str:
        return self._running.metrics().formatted(metric_format)

    # -- models

    def model(self, model_name: str, model_version: int = -1) -> Model:
        """A model by name; whether there is one shows when it is used."""
        return Model(self, model_name, model_version)

    def models(self, exclude_not_ready: bool = False) -> ModelDictionary:
        flags = TRITONSERVER_ModelIndexFlag.READY if exclude_not_ready else 0
        rows = json.loads(self._running.model_index(flags).serialize_to_json())
        found = {}
        for row in rows:
            version = int(row.get("version", -1))
            found[row["name"], version] = Model(self, row["name"], version, row.get("state"), row.get("reason"))
        return ModelDictionary(self, found)

    def load(self, model_name: str, parameters: Mapping[str, str | int | bool | bytes] | None = None) -> Model:
        """Load a model or load it again; ``config`` and ``file:…`` among the parameters replace what lies there."""
        given = [TRITONSERVER_Parameter(name, value) for name, value in (parameters or {}).items()]
        self._running.load_model_with_parameters(model_name, given)
        return self.model(model_name)

    def unload(
        self,
        model: str | Model,
        unload_dependents: bool = False,
        wait_until_unloaded: bool = False,
        polling_interval: float = 0.1,
        timeout: float | None = None,
    ) -> None:
        """Begin to unload a model; with ``wait_until_unloaded`` return when it is gone, or after ``timeout`` s."""
        server = self._running
        name = model.name if isinstance(model, Model) else model
        versions = {version for known, version in self.models() if known == name}
        if unload_dependents:
            server.unload_model_and_dependents(name)
        else:
            server.unload_model(name)
        deadline = None if timeout is None else time.monotonic() + timeout
        while wait_until_unloaded and not self._is_unloaded(name, versions):
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(polling_interval)

    def _is_unloaded(self, name: str, versions: set[int]) -> bool:
        models = self.models()
        return all(
            models[name, version].state in (None, "UNAVAILABLE") for version in versions if (name, version) in models
        )

    # -- repositories

    def register_model_repository(self, repository_path: str, name_mapping: Mapping[str, str] | None = None) -> None:
        """``name_mapping``: folders of models there that are served by another name, by that name."""
        # The binding has it the other way round: the folder, and the name as the value.
        mapping = [TRITONSERVER_Parameter(folder, name) for name, folder in (name_mapping or {}).items()]
        self._running.register_model_repository(repository_path, mapping)

    def unregister_model_repository(self, repository_path: str) -> None:
        self._running.unregister_model_repository(repository_path)

    def poll_model_repository(self) -> None:
        self._running.poll_model_repository()
