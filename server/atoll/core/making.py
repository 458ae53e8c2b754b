"""From what lies in a repository to a model that can be started: one version at a time.

Completes the configuration and refuses what this host cannot serve. The versions of one model may complete their
configuration differently.
"""

from __future__ import annotations

import json
import logging
import uuid
from functools import partial
from pathlib import Path

from atoll.core.ensemble import EnsembleModel
from atoll.core.ensemble_plan import Plan, Step
from atoll.core.instance_settings import initialize_args
from atoll.core.model import Model, ModelHost
from atoll.core.python_model import PythonModel
from atoll.core.surroundings import model_surroundings
from atoll.environments.interpreter import Interpreter
from atoll.errors import Code, ServerError
from atoll.instances.auto_complete import auto_complete
from atoll.observe.log import model_output
from atoll.repository.backends import Backends
from atoll.repository.changes import fingerprint
from atoll.repository.checks import check_stub_name
from atoll.repository.config import ModelConfig
from atoll.repository.normalize import ENSEMBLE
from atoll.repository.scan import ModelSource

__all__ = ["ModelMaker"]

_log = logging.getLogger(__name__)

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_OWN_STUB = "triton_python_backend_stub"  # compiled for another Python, with the original
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
        model: Model
        if config.platform == ENSEMBLE:
            model = self._make_ensemble(config.complete(None), version, source)
        else:
            model = await self._make_python(config, version, source, backend)
        model.namespace = source.listed.namespace
        model.metadata = {**model.metadata, "versions": [str(number) for number in source.versions]}
        if model.config.get("response_cache", {}).get("enable"):
            self._cache_responses(model, source)
        return model

    async def _make_python(
        self, config: ModelConfig, version: int, source: ModelSource, backend: Path | None
    ) -> PythonModel:
        _check_parameters(config)
        path = source.versions[version].absolute()
        model_dir = source.path.absolute()
        interpreter = await self._interpreter(config, model_dir, path, backend)
        warm_parent = self._host.warm_parents.take(interpreter)
        try:
            completed = None
            if self._asks_models:
                check_stub_name(config.name)
                completed = await auto_complete(
                    initialize_args(config, version, source.path, instance=None),
                    model_surroundings(config),
                    path,
                    config.default_model_filename,
                    backend,
                    warm_parent,
                    self._host.start_timeout_s,
                    partial(model_output, f"{config.name} auto-complete"),
                )
            config = config.complete(completed)
            return PythonModel(config, version, path, model_dir, self._host, warm_parent, backend)
        except BaseException:
            self._host.warm_parents.release(warm_parent)
            self._host.environments.release(interpreter)
            raise

    def _make_ensemble(self, config: ModelConfig, version: int, source: ModelSource) -> EnsembleModel:
        """Made for its steps' models as they are now."""
        scheduling = config.json["ensemble_scheduling"]
        steps = [Step.from_json(step, source.listed.namespace) for step in scheduling["step"]]
        models = [self._host.find(step.model_name, step.model_version, step.namespace) for step in steps]
        decoupled = [index for index, model in enumerate(models) if model.decoupled]
        plan = Plan(steps, decoupled, scheduling["max_inflight_requests"])
        config = config.with_decoupled(bool(decoupled))
        return EnsembleModel(config, version, source.path.absolute(), self._host, plan)

    def _cache_responses(self, model: Model, source: ModelSource) -> None:
        if self._host.response_cache is None:
            _log.warning(f"model '{model.name}' asks for a response cache; give the server one: --cache-config")
            return
        # What an ensemble answers follows from its steps' models as well: it lasts as long as they do.
        load = uuid.uuid4().hex if model.metadata["platform"] == ENSEMBLE else ""
        made_from = json.dumps([model.config, model.version, load]).encode()
        model.answer_from(self._host.response_cache, fingerprint(source.path, made_from))

    async def _interpreter(
        self, config: ModelConfig, model_dir: Path, version_dir: Path, backend: Path | None
    ) -> Interpreter:
        """That of the model's execution environment, or else of the one that its backend brings."""
        value = config.parameters.get(_ENVIRONMENT, "")
        if not value and backend is not None:
            brought = backend.with_name(f"pb_exec_env_{backend.name}.tar.gz")
            value = str(brought) if brought.exists() else ""
        file = backend or version_dir / config.default_model_filename
        if (model_dir / _OWN_STUB).exists():
            _log.warning(f"model '{config.name}': {_OWN_STUB} is not used; stubs are Python, for any version of it")
        return await self._host.environments.interpreter(value, model_dir, file)


def _check_parameters(config: ModelConfig) -> None:
    value = config.parameters.get(_FORCE_CPU, "yes")
    if value not in ("yes", "no"):
        # The quote without a partner is the original's.
        raise ServerError(Code.UNSUPPORTED, f"Incorrect value for {_FORCE_CPU}: {value}'")
    if value == "no":
        _log.warning(f"Forcing CPU only input tensors: model '{config.name}' gets none that lie on a GPU")
