"""From ``--cache-config`` to a response cache."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence, Set

from atoll_ipc.memory import Arena

from atoll.caching.local import LocalCache
from atoll.caching.redis_cache import RedisCache
from atoll.caching.response_cache import ResponseCache
from atoll.errors import Code, ServerError

__all__ = ["CacheSetting", "make_cache"]

_log = logging.getLogger(__name__)

CacheSetting = tuple[str, str, str]
"""Cache, setting and value, as one ``--cache-config`` gives them."""

_REDIS_TIMEOUT_S = 1.0
_REDIS_SETTINGS = frozenset(
    ("host", "port", "user", "password", "db", "connect_timeout", "socket_timeout", "pool_size")
)


def make_cache(given: Sequence[CacheSetting], cache_directory: str, make_arena: Callable[[], Arena]) -> ResponseCache:
    """The cache that the flags ask for. Raises ServerError INVALID_ARG where they ask for none that there is."""
    names = list(dict.fromkeys(name for name, _, _ in given))
    if len(names) > 1:
        raise _refused("found multiple cache configurations, but only a single cache is currently supported")
    settings = {setting: value for _, setting, value in given}
    if names == ["local"]:
        return _local(settings, make_arena)
    if names == ["redis"]:
        return _redis(settings)
    # The original looks for a library; people know the sentence.
    raise _refused(f"unable to find 'libtritoncache_{names[0]}.so' for cache. Searched: {cache_directory}")


def _local(settings: Mapping[str, str], make_arena: Callable[[], Arena]) -> ResponseCache:
    _check_names("local", settings, {"size"})
    if "size" not in settings:
        raise _refused("--cache-config=local needs a size: local,size=<bytes>")
    nbytes = _number("local", settings, "size", 0)
    if nbytes <= 0:
        raise _refused(f"--cache-config=local,size must be greater than 0, got: {nbytes}")
    _log.info(f"Response cache 'local' is created with size {nbytes}")
    return LocalCache(nbytes, make_arena())


def _redis(settings: Mapping[str, str]) -> ResponseCache:
    _check_names("redis", settings, _REDIS_SETTINGS)
    if importlib.util.find_spec("redis") is None:
        raise _refused("--cache-config=redis needs the package 'redis': pip install 'atoll[redis]'")
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    host = settings.get("host", "localhost")
    port = _number("redis", settings, "port", 6379)
    client = Redis(
        host=host,
        port=port,
        db=_number("redis", settings, "db", 0),
        username=settings.get("user") or os.environ.get("TRITONCACHE_REDIS_USERNAME"),
        password=settings.get("password") or os.environ.get("TRITONCACHE_REDIS_PASSWORD"),
        socket_connect_timeout=_milliseconds(settings, "connect_timeout"),
        socket_timeout=_milliseconds(settings, "socket_timeout"),
        max_connections=_number("redis", settings, "pool_size", 0) or None,
        retry=Retry(NoBackoff(), 0),  # a request waits meanwhile; its model is there
    )
    _log.info(f"Response cache 'redis' is created, with the server at {host}:{port}")
    return RedisCache(client)


def _milliseconds(settings: Mapping[str, str], name: str) -> float:
    """A timeout in seconds; the settings are in milliseconds."""
    return _number("redis", settings, name, round(_REDIS_TIMEOUT_S * 1000)) / 1000


def _number(cache: str, settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise _refused(f"--cache-config={cache},{name} must be a number, got: {text}") from None


def _check_names(cache: str, settings: Mapping[str, str], known: Set[str]) -> None:
    for name in settings:
        if name not in known:
            raise _refused(f"--cache-config={cache},{name} is not known; there are: {', '.join(sorted(known))}")


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
