"""Python-based backends: a folder in the backend directory whose ``model.py`` serves every model of that backend."""

from dataclasses import dataclass, replace
from pathlib import Path

from atoll.errors import Code, ServerError
from atoll.repository.config import ModelConfig
from atoll.repository.names import is_plain_name
from atoll.repository.normalize import MODEL_FILENAME, PYTHON

__all__ = ["Backends"]


@dataclass(frozen=True, slots=True)
class Backends:
    """The backends this host has: ``python``, and those in ``directory``."""

    directory: Path

    def resolve(self, config: ModelConfig) -> tuple[ModelConfig, Path | None]:
        """The configuration, which names its runtime now, and the file that a Python-based backend has.

        No file: the model has its own. Raises ServerError for a backend that is not there.
        """
        if config.backend == PYTHON or not config.backend:
            config.check_loadable()
            return config, None
        folder = self.directory / config.backend
        runtime = config.json["runtime"]
        file = folder / MODEL_FILENAME
        if runtime == MODEL_FILENAME and not file.is_file():
            raise ServerError(
                Code.INVALID_ARG,
                f"unable to find Python backend based backend library '{runtime}' for model '{config.name}', "
                f"searched: '{file}'",
            )
        found = is_plain_name(config.backend) and runtime in ("", MODEL_FILENAME) and file.is_file()
        config.check_loadable((config.backend,) if found else (PYTHON,))
        return replace(config, json={**config.json, "runtime": MODEL_FILENAME}), file.absolute()
