"""``TRITONSERVER_Server``: an embedded server behind the method names of the original's C API."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.core.model import Model
from atoll.embedding.log import process_log
from atoll.embedding.server import EmbeddedServer
from atoll.observe.trace_settings import TraceOptions

from tritonserver._c.enums import (
    TRITONSERVER_LogLevel,
    TRITONSERVER_ModelBatchFlag,
    TRITONSERVER_ModelIndexFlag,
    TRITONSERVER_ModelTxnPropertyFlag,
)
from tritonserver._c.errors import InvalidArgumentError, UnavailableError, translated
from tritonserver._c.metrics import process_metrics
from tritonserver._c.options import TRITONSERVER_ServerOptions
from tritonserver._c.values import TRITONSERVER_Message, TRITONSERVER_Metrics, TRITONSERVER_Parameter

__all__ = ["TRITONSERVER_LogIsEnabled", "TRITONSERVER_LogMessage", "TRITONSERVER_Server", "api_version"]


def api_version() -> tuple[int, int]:
    """That of the C API whose names these are."""
    return (1, 37)


def TRITONSERVER_LogIsEnabled(level: TRITONSERVER_LogLevel) -> bool:
    return process_log.is_enabled(int(level))


def TRITONSERVER_LogMessage(level: TRITONSERVER_LogLevel, file: str, line: int, message: str) -> None:
    process_log.write(int(level), file, line, message)


class TRITONSERVER_Server:
    """Starts with its construction."""

    def __init__(self, options: TRITONSERVER_ServerOptions) -> None:
        self._exit_timeout_s = options.exit_timeout_s
        with translated():
            self.embedded = EmbeddedServer(
                options.for_core(TraceOptions()), options.shows_metrics, [process_metrics.collect]
            )
            self._core = self.embedded.core
            self.embedded.start()

    def _ptr(self) -> EmbeddedServer:
        """For frontends."""
        return self.embedded

    def stop(self) -> None:
        with translated():
            self.embedded.stop(self._exit_timeout_s)

    # -- state

    def is_live(self) -> bool:
        self._check_not_exiting()
        return self._core.is_live()

    def is_ready(self) -> bool:
        self._check_not_exiting()
        with translated():
            return self.embedded.call(self._core.check_ready())

    def _check_not_exiting(self) -> None:
        if self._core.is_stopping:
            raise UnavailableError("Server exiting")

    def metadata(self) -> TRITONSERVER_Message:
        core = self._core
        return TRITONSERVER_Message.of(
            {"name": core.name, "version": core.version, "extensions": list(core.EXTENSIONS)}
        )

    def metrics(self) -> TRITONSERVER_Metrics:
        return TRITONSERVER_Metrics(self.embedded.page)

    # -- models

    def model_is_ready(self, name: str, version: int = -1) -> bool:
        self._check_not_exiting()
        with translated():
            return self.embedded.call(self._core.check_model_ready(name, _text(version)))

    def model_batch_properties(self, name: str, version: int = -1) -> tuple[int, int]:
        batches = self._model(name, version).max_batch_size > 0
        flag = TRITONSERVER_ModelBatchFlag.FIRST_DIM if batches else TRITONSERVER_ModelBatchFlag.UNKNOWN
        return int(flag), 0

    def model_transaction_properties(self, name: str, version: int = -1) -> tuple[int, int]:
        flags = TRITONSERVER_ModelTxnPropertyFlag
        return int(flags.DECOUPLED if self._model(name, version).decoupled else flags.ONE_TO_ONE), 0

    def model_metadata(self, name: str, version: int = -1) -> TRITONSERVER_Message:
        return TRITONSERVER_Message.of(self._model(name, version).metadata)

    def model_config(self, name: str, version: int = -1, config_version: int = 1) -> TRITONSERVER_Message:
        if config_version != 1:
            raise InvalidArgumentError(
                f"model configuration version {config_version} not supported, supported versions are: 1"
            )
        return TRITONSERVER_Message.of(self._model(name, version).config)

    def model_statistics(self, name: str, version: int = -1) -> TRITONSERVER_Message:
        with translated():
            return TRITONSERVER_Message.of({"model_stats": self._core.statistics(name, _text(version))})

    def model_index(self, flags: int = 0) -> TRITONSERVER_Message:
        only_ready = bool(int(flags) & TRITONSERVER_ModelIndexFlag.READY)
        with translated():
            return TRITONSERVER_Message.of(self.embedded.call(self._core.index(only_ready)))

    def _model(self, name: str, version: int) -> Model:
        with translated():
            return self._core.model_version(name, version)

    # -- control

    def load_model(self, name: str) -> None:
        self.load_model_with_parameters(name, [])

    def load_model_with_parameters(self, name: str, parameters: Sequence[TRITONSERVER_Parameter]) -> None:
        config, files = "", {}
        for parameter in parameters:
            key, value = parameter.name, parameter.value
            if key == "config":
                if not isinstance(value, str):
                    raise InvalidArgumentError("Config parameter 'config' must be a string")
                config = value
            elif key.startswith("file:"):
                if not isinstance(value, bytes):
                    raise InvalidArgumentError(f"File override parameter '{key}' must have BYTES type")
                files[key] = value
            else:
                raise InvalidArgumentError(f"Unrecognized load parameter '{key}' with type '{parameter.type.name}'")
        with translated():
            self.embedded.call(self._core.load(name, config, files))

    def unload_model(self, name: str) -> None:
        with translated():
            self.embedded.call(self._core.unload(name))

    def unload_model_and_dependents(self, name: str) -> None:
        with translated():
            self.embedded.call(self._core.unload(name, with_steps=True))

    def register_model_repository(self, path: str, mapping: Sequence[TRITONSERVER_Parameter]) -> None:
        """A parameter's name is the folder, its value the name that the model there is served by."""
        served_as = {str(parameter.value): parameter.name for parameter in mapping}
        with translated():
            self._core.register_repository(path, served_as)

    def unregister_model_repository(self, path: str) -> None:
        with translated():
            self._core.unregister_repository(path)

    def poll_model_repository(self) -> None:
        with translated():
            self.embedded.call(self._core.poll())


def _text(version: int) -> str:
    return "" if version == -1 else str(version)
