"""The stub's end of the channel: whichever thread waits for a message reads, and hands the others theirs.

The main thread waits for commands, a thread in a BLS call for its reply. On the plain path there is one waiting
thread and no hand-over; no thread exists for the sake of the channel.
"""

import collections
import itertools
import os
import socket
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from atoll_ipc.wire import FrameReader, Kind, pack
from triton_python_backend_utils import TritonModelException

from atoll_stub.memory import Store

__all__ = ["Call", "Channel"]

_READ_NBYTES = 65536  # below malloc's mmap threshold: a larger buffer costs two system calls and its page faults

# Waking a core that sleeps costs tens of microseconds, on a virtual machine more than a small model's execution. So
# where requests come one by one and in quick succession, the wait for the next begins with polling. Where several are
# under way there is always a next one, and the core is better left to others; after a longer wait, to sleep.
_POLL_NS = 200_000 if len(os.sched_getaffinity(0)) > 1 else 0
_QUICK_NS = 2 * _POLL_NS

Message = List[Any]


class Channel:
    """Sends and receives messages; safe to use from any thread."""

    def __init__(self, connection: socket.socket, store: Store) -> None:
        self.store = store
        store.on_released_by_thread = self._tell_released
        self._pid = os.getpid()
        self._socket = connection
        self._frames = FrameReader()
        self.sending = threading.RLock()  # held by who must not be overtaken by another thread's message
        self._turn = threading.Condition(threading.Lock())
        self._reading = False
        self._alone = False  # the last execution had no other beside it
        self._last_wait_ns = 0
        self._commands: Deque[Message] = collections.deque()
        self._checks: Deque[Message] = collections.deque()
        self._calls: Dict[int, Deque[Message]] = {}
        self._posted: Deque[Message] = collections.deque()
        self._packing = False
        self.on_cancel: Callable[[Tuple[int, int], bool], Any] = lambda key, drop: None
        self.on_taken: Callable[[Tuple[int, int], int], Any] = lambda key, nbytes: None
        self._call_ids = itertools.count(1)

    def send(self, message: Message) -> None:
        with self.sending:
            self._packing = True
            try:
                self._socket.sendall(pack(message))
            finally:
                self._packing = False
            if self._posted:
                self._send_posted()

    def disown(self) -> None:
        """Called in the child of a fork, where no other thread exists: the parent goes on using its channel."""
        self._socket.close()
        self.sending = threading.RLock()
        self._turn = threading.Condition(threading.Lock())
        self._reading = True  # nothing is taken in here
        self.send = _refuse  # type: ignore[method-assign]

    def post(self, message: Message) -> None:
        """Send when nobody is sending. For finalizers, which run in the midst of anything and must not wait."""
        if os.getpid() == self._pid:  # a child that the model forked has our objects too, and nothing to tell
            self._posted.append(message)
            self._send_posted()

    def _send_posted(self) -> None:
        while self._posted and self.sending.acquire(blocking=False):
            try:
                if self._packing:
                    return  # by this very thread, further up; it sees to what is posted
                self.send(self._posted.popleft())
            except IndexError:
                return  # another thread took the last one
            finally:
                self.sending.release()

    def _tell_released(self) -> None:
        """Called by a finalizer in a thread of the model's, while the next message may be far away."""
        try:
            self.post([Kind.RELEASE, self.store.take_released()])
        except OSError:
            pass  # the supervisor is gone, which whoever reads will see

    def decline(self, response: Optional[List[Any]]) -> None:
        """Nobody wants a call's response any more. Its blocks must not wait for a message that may be far away."""
        if response is not None and response[0]:
            self.store.decline(response[0])
            self._tell_released()

    def next_command(self) -> Message:
        """The next LOAD, EXECUTE or FINALIZE. Raises EOFError when the supervisor is gone."""
        if not self._commands and self.store.has_released:
            self.send([Kind.RELEASE, self.store.take_released()])
        return self._wait(self._commands)

    def next_check(self) -> Message:
        """The next CHECK."""
        return self._wait(self._checks)

    def call(self, kind: int, *fields: Any) -> "Call":
        """Send ``[kind, call id, *fields]``; the call, whose answers can be waited for."""
        call = Call(self, next(self._call_ids))
        self._calls[call.id] = call.answers
        try:
            self.send([kind, call.id, *fields])
        except BaseException:
            call.close()
            raise
        return call

    def poll(self) -> None:
        """Take in what has arrived, without waiting."""
        with self._turn:
            if self._reading:
                return  # then it is taken in as it comes
            self._reading = True
        messages: List[Message] = []
        try:
            data = self._socket.recv(_READ_NBYTES, socket.MSG_DONTWAIT)
            messages = self._frames.feed(data)
        except BlockingIOError:
            pass
        finally:
            with self._turn:
                self._reading = False
                for message in messages:
                    self._sort(message)
                self._turn.notify_all()

    def wait_until(self, holds: object) -> None:
        """Wait until what arrives makes this true."""
        with self._turn:
            self._take_turns(holds)

    def _wait(self, mine: Deque[Message]) -> Message:
        with self._turn:
            self._take_turns(mine)
            return mine.popleft()

    def _take_turns(self, mine: object) -> None:
        """Read, or wait for who does, until there is what was waited for."""
        while not mine:
            if self._reading:
                self._turn.wait()
                continue
            self._reading = True
            self._turn.release()
            try:
                messages = self._read(mine)
            finally:
                self._turn.acquire()
                self._reading = False
                self._turn.notify_all()
            for message in messages:
                self._sort(message)

    def _receive(self, polling: bool) -> bytes:
        """Wait for bytes; with ``polling``, at first without sleeping (see ``_POLL_NS``)."""
        began = time.monotonic_ns()
        if polling and self._last_wait_ns < _QUICK_NS:
            while time.monotonic_ns() - began < _POLL_NS:
                try:
                    data = self._socket.recv(_READ_NBYTES, socket.MSG_DONTWAIT)
                    break
                except BlockingIOError:
                    os.sched_yield()  # whoever else wants this core has it
            else:
                data = self._socket.recv(_READ_NBYTES)
        else:
            data = self._socket.recv(_READ_NBYTES)
        self._last_wait_ns = time.monotonic_ns() - began
        return data

    def _read(self, mine: object) -> List[Message]:
        while True:
            data = self._receive(self._alone and mine is self._commands)
            if not data:
                raise EOFError("the supervisor is gone")
            messages = self._frames.feed(data)
            if messages:
                return messages

    def _sort(self, message: Message) -> None:
        kind = message[0]
        if kind == Kind.EXECUTE:
            if message[3]:
                self.store.returned(message[3])
            self._alone = message[4]
            self._commands.append(message)
        elif kind == Kind.REPLY:
            self.store.returned(message[3])
            answers = self._calls.get(message[1])
            if answers is not None:
                answers.append(message)
            else:
                self.decline(message[2])
        elif kind == Kind.ANSWER:
            answers = self._calls.get(message[1])
            if answers is not None:
                answers.append(message)
        elif kind == Kind.CANCEL:
            self.on_cancel((message[1], message[2]), message[3])
        elif kind == Kind.CHECK:
            self._checks.append(message)
        elif kind == Kind.TAKEN:
            for execution_id, index, nbytes in message[1]:
                self.on_taken((execution_id, index), nbytes)
            self.store.returned(message[2])
        elif kind == Kind.FREE:
            self.store.returned(message[1])
        elif kind == Kind.FORGET:
            self.store.forget(message[1])
        elif kind == Kind.TRIM:
            gone = self.store.trim()
            if gone:
                self.send([Kind.GONE, gone])
        else:
            self._commands.append(message)


def _refuse(message: Message) -> None:
    raise TritonModelException("A request is answered by the process that received it, not by one that it forked.")


class Call:
    """A question that is under way. Whoever asked closes it."""

    __slots__ = ("_channel", "answers", "id")

    def __init__(self, channel: Channel, id: int) -> None:
        self._channel = channel
        self.id = id
        self.answers: Deque[Message] = collections.deque()

    def next(self) -> Message:
        """Wait for the next answer."""
        return self._channel._wait(self.answers)

    def close(self) -> None:
        self._channel._calls.pop(self.id, None)
        while self.answers:
            message = self.answers.popleft()
            if message[0] == Kind.REPLY:
                self._channel.decline(message[2])
