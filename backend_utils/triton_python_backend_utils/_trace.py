"""``InferenceTrace``: the trace that a request is part of."""

from typing import Optional

__all__ = ["InferenceTrace"]


class InferenceTrace:
    """Which trace a request belongs to. A request made with ``trace=request.trace()`` is traced as its child.

    (Original 24.03.)
    """

    __slots__ = ("_context",)

    def __init__(self, context: Optional[str] = None) -> None:
        self._context = context

    def get_context(self) -> Optional[str]:
        """The propagated trace context as JSON text; None when the request is not traced, or none was propagated."""
        return self._context
