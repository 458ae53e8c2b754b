"""``preserve_ordering``: the responses of a model leave in the order in which its requests came.

Whoever is first passes its responses on as they come; those of the others are held until all before them have had
their last. That goes for refusals of requests that waited too long as well: a client that tells responses of one stream
apart by their order must be able to. Only a request whose client has given up holds nobody up, and waits for nobody.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable
from functools import partial

from atoll.inference import Request, Response

__all__ = ["ResponseOrder"]

_log = logging.getLogger(__name__)


class _Place:
    """A request's place in the order: who takes its responses, and those that are held."""

    __slots__ = ("held", "respond")

    def __init__(self, respond: Callable[[Response], None]) -> None:
        self.respond = respond
        self.held: list[Response] = []

    def pass_on(self) -> bool:
        """Give out what is held; whether that was all there will be."""
        held, self.held = self.held, []
        for response in held:
            try:
                self.respond(response)
            except Exception:  # nobody else's responses shall stay behind for it
                _log.exception(f"a response of model '{response.model_name}' could not be delivered")
        return bool(held) and held[-1].final


class ResponseOrder:
    """Stands between a model and those who wait for its responses."""

    def __init__(self) -> None:
        self._places: collections.OrderedDict[Request, _Place] = collections.OrderedDict()
        self._passing_on = False

    def enlist(self, request: Request) -> None:
        """The next request: from now on its responses come by here."""
        self._places[request] = _Place(request.respond)
        request.respond = partial(self._on_response, request)

    def forget(self, request: Request) -> None:
        """It was refused there and then, and gets no responses."""
        request.respond = self._places.pop(request).respond

    def _on_response(self, request: Request, response: Response) -> None:
        place = self._places[request]
        place.held.append(response)
        if request.cancelled and response.final:
            del self._places[request]
            place.pass_on()
        if self._passing_on:
            return  # who took a response has caused another one; its turn comes
        self._passing_on = True
        while self._places:
            first, place = next(iter(self._places.items()))
            if not place.pass_on():
                break
            self._places.pop(first, None)
        self._passing_on = False
