"""Request tracing as the rest of the server sees it: what is to be traced, and where finished traces go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from atoll.errors import Code, ServerError
from atoll.observe.trace_settings import TraceControl, TraceOptions, read_changes

__all__ = ["Tracer"]


class Tracer:
    """The tracing of one server. All methods are for its event loop."""

    def __init__(self, options: TraceOptions, is_served: Callable[[str], bool]) -> None:
        """``is_served`` tells of a model's name whether there is such a model. Raises ServerError."""
        self._control = TraceControl(options)
        self._is_served = is_served

    def shown(self, model: str = "") -> dict[str, list[str]]:
        """The settings of all models, or of one, in the protocol's words. Raises ServerError for an unknown model."""
        if model and not self._is_served(model):
            raise ServerError(Code.INVALID_ARG, f"Request for unknown model : {model}")
        return self._control.shown(model)

    def update(
        self, given: Mapping[str, Sequence[str] | None], model: str = "", *, gap: str = ""
    ) -> dict[str, list[str]]:
        """Change some settings, as :func:`read_changes` reads them; all of them. On ServerError nothing is changed."""
        self.shown(model)  # says that there is no such model, if so
        self._control.update(read_changes(given, gap), model)
        return self._control.shown(model)
