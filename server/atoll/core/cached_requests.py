"""How one model's requests meet the response cache: asked before the model is, told of what the model answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

from atoll.caching.key import request_key
from atoll.caching.response_cache import CachedResponse, ResponseCache
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor
from atoll.observe.statistics import Failure, ModelStatistics
from atoll.scheduling.scheduler import Rejected

__all__ = ["CachedRequests"]

_LARGE_NBYTES = 1 << 20
"""From here on the key is computed beside the event loop: a gigabyte takes about a second."""


class CachedRequests:
    """Between a model's checks and its scheduler."""

    def __init__(
        self,
        cache: ResponseCache,
        fingerprint: bytes,
        model_version: int,
        outputs: Collection[str],
        statistics: ModelStatistics,
        *,
        accept: Callable[[Request], None],
        answer: Callable[[Response], None],
        fail: Callable[[Request, ServerError, Failure], None],
    ) -> None:
        """``fingerprint`` stands for the model as it was loaded: another version's responses are of no use.

        ``accept`` takes a request that must be executed after all; every other ends in ``answer`` or ``fail``.
        """
        self._cache = cache
        self._fingerprint = fingerprint
        self._model_version = model_version
        self._outputs = outputs
        self._statistics = statistics
        self._accept_miss = accept
        self._answer = answer
        self._fail = fail
        self._tasks: set[asyncio.Future[None]] = set()

    def accept(self, request: Request) -> None:
        self._run(self._answer_or_pass_on(request))

    async def _answer_or_pass_on(self, request: Request) -> None:
        began = time.monotonic_ns()
        try:
            key = await self._key(request)
        except ServerError as error:  # an input in memory of a client's, who has taken it away
            self._fail(request, error, Failure.OTHER)
            return
        found = await self._cache.look_up(key)
        lookup_ns = time.monotonic_ns() - began
        if request.cancelled:
            self._fail(request, ServerError(Code.CANCELLED, "Request cancelled"), Failure.CANCELED)
        elif found is not None:
            total_ns = time.monotonic_ns() - request.received_ns
            self._statistics.found_in_cache(total_ns, began - request.received_ns, lookup_ns)
            self._answer(Response(request, self._model_version, found.outputs, parameters=found.parameters))
        else:
            request.respond = partial(self._keep, key, lookup_ns, request.respond)
            try:
                self._accept_miss(request)
            except ServerError as error:
                self._fail(request, error, Failure.REJECTED if isinstance(error, Rejected) else Failure.OTHER)

    async def _key(self, request: Request) -> bytes:
        if sum(tensor.nbytes for tensor in request.inputs) < _LARGE_NBYTES:
            return request_key(self._fingerprint, self._outputs, request)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, request_key, self._fingerprint, self._outputs, request)

    def _keep(self, key: bytes, lookup_ns: int, respond: Callable[[Response], None], response: Response) -> None:
        """The model has answered: first the client gets it, then the cache."""
        outputs: list[Tensor] | None = response.outputs
        if response.request.placements is not None:
            outputs = _copied(response.outputs)  # the client may change its memory as soon as it is answered
        respond(response)
        if response.error is None and response.final and outputs is not None:
            self._run(self._insert(key, lookup_ns, CachedResponse(outputs, response.parameters)))

    async def _insert(self, key: bytes, lookup_ns: int, response: CachedResponse) -> None:
        began = time.monotonic_ns()
        await self._cache.insert(key, response)
        self._statistics.missed_cache(lookup_ns, time.monotonic_ns() - began)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself does not hold it
        task.add_done_callback(self._tasks.discard)


def _copied(tensors: list[Tensor]) -> list[Tensor] | None:
    """None when the client has taken its memory away already."""
    try:
        return [Tensor(tensor.name, tensor.datatype, tensor.shape, bytes(tensor.buffer())) for tensor in tensors]
    except ServerError:
        return None
