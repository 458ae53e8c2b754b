"""``InferenceTrace``: the trace that a request is part of."""

from typing import Optional

__all__ = ["InferenceTrace"]


class InferenceTrace:
    """Which trace a request belongs to. A request made with ``trace=request.trace()`` is traced as its child.

    (Original 24.03.)
    """

    __slots__ = ("_context", "_id")

    def __init__(self, context: Optional[str] = None) -> None:
        self._context = context
        self._id = 0

    @classmethod
    def _received(cls, id: int, context: Optional[str]) -> "InferenceTrace":
        """Of a request that came in a message: the number by which the server knows it."""
        trace = cls(context)
        trace._id = id
        return trace

    def get_context(self) -> Optional[str]:
        """The propagated trace context as JSON text; None when the request is not traced, or none was propagated."""
        return self._context
