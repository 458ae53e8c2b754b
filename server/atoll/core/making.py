"""From what lies in a repository to a model that can be started: one version at a time.

Completes the configuration and refuses what this host cannot serve. The versions of one model may complete their
configuration differently.
"""

from __future__ import annotations

import json
import logging
from functools import partial

from atoll.core.instance_settings import initialize_args
from atoll.core.model import Model, ModelHost
from atoll.core.python_model import PythonModel
from atoll.errors import Code, ServerError
from atoll.instances.auto_complete import auto_complete
from atoll.observe.log import model_output
from atoll.repository.backends import Backends
from atoll.repository.changes import fingerprint
from atoll.repository.checks import check_stub_name
from atoll.repository.config import ModelConfig
from atoll.repository.scan import ModelSource

__all__ = ["ModelMaker"]

_log = logging.getLogger(__name__)

_FORCE_CPU = "FORCE_CPU_ONLY_INPUT_TENSORS"


class ModelMaker:
    """Makes the models of one server."""

    def __init__(self, backends: Backends, asks_models: bool, host: ModelHost) -> None:
        """``asks_models``: whether models complete their configurations."""
        self._backends = backends
        self._asks_models = asks_models
        self._host = host

    async def make(self, source: ModelSource, version: int) -> Model:
        """The model of the final configuration, not started. Raises ServerError."""
        assert source.config is not None
        config, backend = self._backends.resolve(source.config)
        _check_parameters(config)
        path = source.versions[version].absolute()
        completed = None
        if self._asks_models and config.platform != "ensemble":
            check_stub_name(config.name)
            completed = await auto_complete(
                initialize_args(config, version, source.path, instance=None),
                path,
                config.default_model_filename,
                backend,
                self._host.warm_parent,
                self._host.start_timeout_s,
                partial(model_output, f"{config.name} auto-complete"),
            )
        config = config.complete(completed)
        _check_supported(config)
        model = PythonModel(config, version, path, source.path.absolute(), self._host, backend)
        model.namespace = source.listed.namespace
        model.metadata = config.metadata(list(source.versions))
        if config.json.get("response_cache", {}).get("enable"):
            if self._host.response_cache is None:
                _log.warning(f"model '{config.name}' asks for a response cache; give the server one: --cache-config")
            else:
                made_from = json.dumps([config.json, version]).encode()
                model.answer_from(self._host.response_cache, fingerprint(source.path, made_from))
        return model


def _check_parameters(config: ModelConfig) -> None:
    value = config.parameters.get(_FORCE_CPU, "yes")
    if value not in ("yes", "no"):
        # The quote without a partner is the original's.
        raise ServerError(Code.UNSUPPORTED, f"Incorrect value for {_FORCE_CPU}: {value}'")


def _check_supported(config: ModelConfig) -> None:
    """Refuse what would be served wrongly because it is not built yet."""
    refused: list[str] = [name for name in ("ensemble_scheduling",) if name in config.json]
    sequences = config.json.get("sequence_batching")
    if sequences is not None and not sequences["iterative_sequence"]:
        refused.append("sequence_batching")
    elif sequences is not None:
        refused += [f"sequence_batching.{name}" for name in ("control_input", "state") if sequences[name]]
    if "EXECUTION_ENV_PATH" in config.parameters:
        refused.append("EXECUTION_ENV_PATH")
    if refused:
        raise ServerError(Code.UNSUPPORTED, f"'{refused[0]}' of model '{config.name}' is not supported yet")
