"""Configurations and repositories for the tests, written as a user would write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atoll.repository import pbtxt
from atoll.repository.config import Host, ModelConfig


@pytest.fixture
def resolve() -> Callable[..., ModelConfig]:
    """A model's configuration from text, for a host that has ``gpus``."""

    def resolve(text: str, *, name: str = "m", strict: bool = False, gpus: tuple[int, ...] = ()) -> ModelConfig:
        message: Any = pbtxt.parse(text.encode(), Path("config.pbtxt"))
        return ModelConfig.resolve(message, name=name, has_model_file=True, strict=strict, host=Host(gpus))

    return resolve


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """Write a model directory: versions with a ``model.py`` each, and a configuration if there is text for one."""

    def write_model(directory: Path, config: str | None = None, versions: tuple[str, ...] = ("1",)) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for version in versions:
            (directory / version).mkdir()
            (directory / version / "model.py").touch()
        if config is not None:
            (directory / "config.pbtxt").write_text(config)
        return directory

    return write_model
