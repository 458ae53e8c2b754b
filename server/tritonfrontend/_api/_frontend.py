"""What the three frontends have in common: their life, over a server that lives on a loop thread of its own."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from atoll.core.server import Server as Core
from atoll.embedding.server import EmbeddedServer, Listener
from tritonserver._c.errors import AlreadyExistsError, InvalidArgumentError, UnavailableError, translated

from tritonfrontend._api._tracing import Tracing

__all__ = ["Frontend"]

F = TypeVar("F", bound="Frontend")


class Frontend:
    """``Frontend(server, options)``; a context manager that starts and stops it. May be started again."""

    Options: ClassVar[type[Any]]
    _protocol: ClassVar[str]

    def __init__(self, server: Any, options: Any = None) -> None:
        """``server`` is a ``tritonserver.Server`` that was started. Raises InvalidArgumentError."""
        self._embedded: EmbeddedServer = server._ptr()
        kind = type(self)
        if options is None:
            options = kind.Options()
        if not isinstance(options, kind.Options):
            raise InvalidArgumentError(
                f"Incorrect type for options. options argument must be of type {kind.__name__}.Options"
            )
        self.options = options
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """Ours: the port in use, also where the options have 0."""
        return self.options.port if self._listener is None else self._listener.port

    def start(self) -> None:
        """Listen. Raises AlreadyExistsError where it does, UnavailableError where the port is taken."""
        if self._listener is not None:
            raise AlreadyExistsError(f"{self._protocol} server is already running.")
        with translated():
            listener = self._make(self._embedded.core)
            self._embedded.start_listener(listener)
            tracing = getattr(self.options, "tracing", None)
            if tracing is not None:
                self._embedded.call(_trace(self._embedded.core, tracing))
        self._listener = listener

    def stop(self) -> None:
        """Close the port at once; requests in progress get no answer. Raises UnavailableError where it does not run."""
        listener, self._listener = self._listener, None
        if listener is None:
            raise UnavailableError(f"{self._protocol} server is not running.")
        self._embedded.stop_listener(listener)

    def __enter__(self: F) -> F:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _make(self, core: Core) -> Listener:
        raise NotImplementedError


async def _trace(core: Core, tracing: Tracing) -> None:
    core.tracer.restart(tracing._for_core())
