"""The stub's end of the channel: whichever thread waits for a message reads, and hands the others theirs.

The main thread waits for commands, a thread in a BLS call for its reply. On the plain path there is one waiting
thread and no hand-over; no thread exists for the sake of the channel.
"""

import collections
import itertools
import socket
import threading
from typing import Any, Deque, Dict, List

from atoll_ipc.wire import FrameReader, Kind, pack

from atoll_stub.memory import Store

__all__ = ["Channel"]

_READ_NBYTES = 65536  # below malloc's mmap threshold: a larger buffer costs two system calls and its page faults

Message = List[Any]


class Channel:
    """Sends and receives messages; safe to use from any thread."""

    def __init__(self, connection: socket.socket, store: Store) -> None:
        self.store = store
        self._socket = connection
        self._frames = FrameReader()
        self.sending = threading.RLock()  # held by who must not be overtaken by another thread's message
        self._turn = threading.Condition(threading.Lock())
        self._reading = False
        self._commands: Deque[Message] = collections.deque()
        self._replies: Dict[int, Deque[Message]] = {}
        self._call_ids = itertools.count(1)

    def send(self, message: Message) -> None:
        with self.sending:
            self._socket.sendall(pack(message))

    def next_command(self) -> Message:
        """The next LOAD, EXECUTE or FINALIZE. Raises EOFError when the supervisor is gone."""
        if not self._commands and self.store.has_released:
            self.send([Kind.RELEASE, self.store.take_released()])
        return self._wait(self._commands)

    def call(self, kind: int, *fields: Any) -> Message:
        """Send ``[kind, call id, *fields]`` and wait for the REPLY to it."""
        call_id = next(self._call_ids)
        answer: Deque[Message] = collections.deque()
        self._replies[call_id] = answer
        try:
            self.send([kind, call_id, *fields, self.store.take_released()])
            return self._wait(answer)
        finally:
            del self._replies[call_id]

    def _wait(self, mine: Deque[Message]) -> Message:
        with self._turn:
            while not mine:
                if self._reading:
                    self._turn.wait()
                    continue
                self._reading = True
                self._turn.release()
                try:
                    messages = self._read()
                finally:
                    self._turn.acquire()
                    self._reading = False
                    self._turn.notify_all()
                for message in messages:
                    self._sort(message)
            return mine.popleft()

    def _read(self) -> List[Message]:
        while True:
            data = self._socket.recv(_READ_NBYTES)
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
            self._commands.append(message)
        elif kind == Kind.REPLY:
            self.store.returned(message[3])
            answer = self._replies.get(message[1])
            if answer is not None:
                answer.append(message)
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
