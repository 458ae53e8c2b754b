"""The settings of ``--backend-config=python,<setting>=<value>``, checked and typed.

Settings that this host has no use for are accepted, so that an existing command line keeps working, and named in
``ignored``. A setting that nobody knows is ignored too, as the original does, but not silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from atoll.errors import Code, ServerError

__all__ = ["PythonBackendOptions", "python_backend_options"]

_BACKINGS = ("auto", "posix", "memfd")


@dataclass(frozen=True, slots=True)
class PythonBackendOptions:
    """How instances get their shared memory and their environments, and how long a stub may take to answer."""

    shm_default_byte_size: int = 64 << 20
    shm_growth_byte_size: int = 64 << 20
    stub_timeout_seconds: int = 30
    shm_region_prefix_name: str = "triton_python_backend_shm_region_"
    shm_backing: str = "auto"
    env_cache_directory: str = ""
    env_cache_size: int = 20 << 30
    ignored: tuple[str, ...] = ()


def python_backend_options(settings: Mapping[str, str]) -> PythonBackendOptions:
    """Check the given settings. Raises ServerError(INVALID_ARG) with the sentence of the original."""
    defaults = PythonBackendOptions()
    default_size = _number(settings, "shm-default-byte-size", defaults.shm_default_byte_size)
    growth_size = _number(settings, "shm-growth-byte-size", defaults.shm_growth_byte_size)
    timeout = _number(settings, "stub-timeout-seconds", defaults.stub_timeout_seconds)
    threads = _number(settings, "thread-pool-size", 1)
    prefix = settings.get("shm-region-prefix-name", defaults.shm_region_prefix_name)
    backing = settings.get("shm-backing", defaults.shm_backing)
    # The sentence says 4 MiB, the limit of the original is 1 MiB; scripts rely on both.
    _require(default_size >= 1 << 20, "shm-default-byte-size can't be smaller than 4 MiBs")
    _require(growth_size > 0, "shm-growth-byte-size can't be smaller than or equal to zero.")
    _require(timeout > 0, "stub-timeout-seconds can't be smaller than or equal to zero.")
    _require(threads >= 1, "thread-pool-size can't be less than 1.")
    _require(bool(prefix), "shm-region-prefix-name must at least contain one character.")
    _require(backing in _BACKINGS, f"shm-backing must be one of {', '.join(_BACKINGS)}. Got {backing}")
    cache_size = _number(settings, "env-cache-size", defaults.env_cache_size)
    _require(cache_size >= 0, "env-cache-size can't be smaller than zero.")
    used = {name.replace("_", "-") for name in PythonBackendOptions.__dataclass_fields__}
    return PythonBackendOptions(
        shm_default_byte_size=default_size,
        shm_growth_byte_size=growth_size,
        stub_timeout_seconds=timeout,
        shm_region_prefix_name=prefix,
        shm_backing=backing,
        env_cache_directory=settings.get("env-cache-directory", defaults.env_cache_directory),
        env_cache_size=cache_size,
        ignored=tuple(name for name in settings if name not in used),
    )


def _number(settings: Mapping[str, str], name: str, default: int) -> int:
    """The leading digits of a setting: what follows them is ignored, as ``stol`` does."""
    text = settings.get(name)
    if text is None:
        return default
    digits = re.match(r"\s*[+-]?[0-9]{1,18}(?![0-9])", text)
    _require(digits is not None, "stol")
    assert digits is not None
    return int(digits.group())


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ServerError(Code.INVALID_ARG, complaint)
