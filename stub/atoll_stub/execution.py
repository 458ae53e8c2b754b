"""Running batches: ``execute`` under the original's rules, and every way in which a request may be answered."""

import gc
import inspect
import logging
import time
import traceback
import weakref
from typing import Any, Dict, List, Optional, Set, Tuple

from atoll_ipc.memory import OutOfSharedMemory
from atoll_ipc.wire import Kind, response_nbytes
from triton_python_backend_utils import InferenceRequest, InferenceResponse, TritonError, TritonModelException
from triton_python_backend_utils._model import Model, WrongReturn, check_returned
from triton_python_backend_utils._request import RELEASE_RESCHEDULE
from triton_python_backend_utils._sender import Reply

from atoll_stub.channel import Channel
from atoll_stub.coroutines import CoroutineLoop
from atoll_stub.regions import Visit
from atoll_stub.rendering import render_exception
from atoll_stub.tensors import describe_response, open_tensors

__all__ = ["Executor"]

_now = time.monotonic_ns
_ERROR = 2
_MOST_UNREAD_NBYTES = 64 << 20

Key = Tuple[int, int]


class Executor:
    """Executes batches and is where the replies of their requests go."""

    def __init__(self, channel: Channel, model: Model, name: str, outputs: List[str], decoupled: bool) -> None:
        self.decoupled = decoupled
        self._channel = channel
        self._store = channel.store
        self._model = model
        self._name = name
        self._outputs = outputs
        self.coroutines = CoroutineLoop()
        self._ended = 0  # the last execution that has; they are numbered in their order
        self._replies: weakref.WeakValueDictionary[Key, Reply] = weakref.WeakValueDictionary()
        self._cancelled: Set[Key] = set()  # requests whose execution has not ended
        self._dropped: Set[int] = set()  # executions that are not to begin any more
        self._visits: Dict[Key, Visit] = {}  # of requests that are not answered
        channel.on_cancel = self._on_cancel
        channel.on_taken = self._on_taken

    def execute(self, execution_id: int, wire_requests: List[List[Any]], placements: List[List[Any]]) -> None:
        """Run a batch and answer it with RESULT or FAILED."""
        received = _now()
        if execution_id in self._dropped:
            self._pass_over(execution_id, wire_requests, received)
            return
        requests = self._requests(execution_id, wire_requests, placements)
        results: List[Optional[List[Any]]] = []
        rescheduled: List[int] = []
        failure = None
        try:
            started = _now()
            returned = self._model.execute(requests)
            if inspect.iscoroutine(returned):
                returned = self._await(returned)
            responses = check_returned(returned, requests, self._name, self.decoupled)
            done = _now()
            for response, request in zip(responses, requests):
                if response is None or request._reply is not None:
                    results.append(self._settle(request, response, rescheduled, len(results)))
                else:
                    visit = self._visits.get((execution_id, len(results))) if self._visits else None
                    results.append(describe_response(self._store, response, request._requested_output_names, visit))
            times = (started - received, done - started, _now() - done)
        except BaseException as error:
            failure = str(error) if isinstance(error, (WrongReturn, OutOfSharedMemory)) else render_exception(error)
            for result in results:
                if result is not None:
                    self._store.take_back(result[0])
            for request in requests:
                if request._reply is not None:
                    request._reply.closed = True
        self._ended = execution_id
        if self._cancelled:
            self._cancelled.difference_update([key for key in tuple(self._cancelled) if key[0] <= execution_id])
            self._dropped.discard(execution_id)
        visits = self._take_visits(execution_id, requests) if self._visits else ()
        # Leases end here, so that the answer tells of them and the next request finds the blocks free. No other thread
        # may tell of them first: the answer refers to what it passes on.
        with self._channel.sending:
            requests = responses = request = response = returned = None  # type: ignore[assignment]
            for visit in visits:
                visit.end()
            released = self._store.take_released()
            if failure is None:
                self._channel.send([Kind.RESULT, execution_id, results, released, times, rescheduled, received])
            else:
                self._channel.send([Kind.FAILED, execution_id, failure, released])

    def stop(self) -> None:
        self.coroutines.stop()

    def _requests(
        self, execution_id: int, wire_requests: List[List[Any]], placements: List[List[Any]]
    ) -> List[InferenceRequest]:
        received, store, outputs = InferenceRequest._received, self._store, self._outputs
        places = store.regions.expect(placements) if placements else {}
        requests = [
            received(fields, open_tensors(store, fields[6]), outputs, (self, (execution_id, index)))
            for index, fields in enumerate(wire_requests)
        ]
        if store.regions.files:
            for index, visit in store.regions.visits(requests, places).items():
                self._visits[(execution_id, index)] = visit
        return requests

    def _take_visits(self, execution_id: int, requests: List[InferenceRequest]) -> List[Visit]:
        """Those of a batch's requests that will get no other answer."""
        answered = [
            (execution_id, index)
            for index, request in enumerate(requests)
            if request._reply is None or request._reply.closed
        ]
        return [self._visits.pop(key) for key in answered if key in self._visits]

    def _settle(
        self, request: InferenceRequest, response: Optional[InferenceResponse], rescheduled: List[int], index: int
    ) -> Optional[List[Any]]:
        """The result of a request that has no returned response, or that a sender was made for."""
        reply = request._reply_state()
        assert reply is not None
        if request._release_flags == RELEASE_RESCHEDULE and not reply.closed:
            reply.closed = True  # it comes again as another request
            rescheduled.append(index)
            return None
        if response is None:
            return None  # a sender answers, or the reply's finalizer when there is none any more
        if reply.count or reply.closed:
            if not reply.closed:
                reply.closed = True
                self.respond(reply, None, True)
            return None  # the first answer counts
        reply.closed = True
        return describe_response(self._store, response, request._requested_output_names, self._visits.get(reply.key))

    # -- coroutines

    def _await(self, coroutine: Any) -> Any:
        """Run ``execute``'s coroutine: to its end, or in a decoupled model in the background."""
        future = self.coroutines.start(coroutine)
        if not self.decoupled:
            return future.result()
        future.add_done_callback(self._background_ended)
        return None

    def _background_ended(self, future: Any) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._channel.send([Kind.LOG, _ERROR, self._name, text])
        if self._replies and (error is not None or future.cancelled()):
            self.coroutines.soon(gc.collect)  # frames that an exception went through often hold each other, and senders

    # -- replies (triton_python_backend_utils._sender.ReplyHost)

    def opened(self, reply: Reply) -> None:
        self._replies[reply.key] = reply  # first, since another thread may just be told of the cancellation
        reply.cancelled = reply.key in self._cancelled
        reply.closed = reply.key[0] <= self._ended

    def respond(self, reply: Reply, response: Optional[InferenceResponse], final: bool) -> None:
        channel = self._channel
        if reply.sent_nbytes - reply.taken_nbytes > _MOST_UNREAD_NBYTES:
            channel.wait_until(_Room(reply))
        try:
            with channel.sending:
                began = _now()
                visit = self._visits.get(reply.key) if self._visits else None
                result = None if response is None else describe_response(self._store, response, reply.requested, visit)
                if visit is not None and (final or not self.decoupled):
                    self._end_visit(reply.key)
                output_ns = _now() - began
                if result is not None:
                    reply.sent_nbytes += response_nbytes(result[0])
                channel.send([Kind.RESPONSE, *reply.key, result, final, self._store.take_released(), output_ns])
        except OutOfSharedMemory as error:
            if final or not self.decoupled:  # there will be no other response
                reply.closed = True
                self._end_visit(reply.key)
                channel.send([Kind.RESPONSE, *reply.key, _failure(str(error)), True, [], 0])
            raise TritonModelException(str(error)) from None

    def abandon(self, reply: Reply) -> None:
        result = None
        if self.decoupled or not reply.count:  # else it was answered, only the final flag was never sent
            result = _failure(
                f"Failed to process the request(s) for model '{self._name}', message: The model neither returned a "
                "response nor sent its final one: the request and its response sender are gone."
            )
        reply.closed = True
        self._end_visit(reply.key)
        try:
            self._channel.post([Kind.RESPONSE, *reply.key, result, True, [], 0])
        except OSError:
            logging.getLogger(__name__).debug("the supervisor is gone")

    def _end_visit(self, key: Key) -> None:
        visit = self._visits.pop(key, None)
        if visit is not None:
            visit.end()

    def poll(self) -> None:
        self._channel.poll()

    def _pass_over(self, execution_id: int, wire_requests: List[List[Any]], received: int) -> None:
        """The client was gone before it began."""
        self._dropped.discard(execution_id)
        self._ended = execution_id
        with self._channel.sending:
            for fields in wire_requests:
                self._store.decline(fields[6])
            nothing = [None] * len(wire_requests)
            released = self._store.take_released()
            self._channel.send([Kind.RESULT, execution_id, nothing, released, (0, 0, 0), [], received])

    def _on_cancel(self, key: Key, drop: bool) -> None:
        """Called in whichever thread reads: the client of a request has given up."""
        if key[0] > self._ended:
            self._cancelled.add(key)
            if drop:
                self._dropped.add(key[0])
        reply = self._replies.get(key)
        if reply is not None:
            reply.cancelled = True

    def _on_taken(self, key: Key, nbytes: int) -> None:
        """Called in whichever thread reads: so much more of what was sent was read."""
        reply = self._replies.get(key)
        if reply is not None:
            reply.taken_nbytes += nbytes


class _Room:
    """True while what was sent to a request is not too far ahead of what was read."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __bool__(self) -> bool:
        return self._reply.sent_nbytes - self._reply.taken_nbytes <= _MOST_UNREAD_NBYTES


def _failure(text: str) -> List[Any]:
    """A response that is an error, as it goes into a message."""
    return [[], [int(TritonError.INTERNAL), text], None]
