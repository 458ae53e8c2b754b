"""Threads that wait on one channel: whoever reads hands the others theirs."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from atoll_ipc.wire import Kind
from stub_twin import TIMEOUT_S, SupervisorTwin

RESPONSE: list[Any] = [[], None, None]


class Waiter:
    """Runs a call that waits, in a thread of its own."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.result: Any = None
        self._call, self._arguments = call, arguments
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call(*self._arguments)
        except EOFError as error:
            self.result = error

    def join(self) -> Any:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.result


def test_commands_come_in_order_also_when_read_at_once(twin: SupervisorTwin) -> None:
    twin.send([Kind.LOAD, {}], [Kind.EXECUTE, 1, [], []], [Kind.FINALIZE])
    kinds = [twin.channel.next_command()[0] for _ in range(3)]
    assert kinds == [Kind.LOAD, Kind.EXECUTE, Kind.FINALIZE]


def test_a_call_carries_its_fields_and_what_was_released(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    twin.store.open({}, reference)
    waiter = Waiter(twin.channel.call, Kind.INFER, "fields")
    kind, call_id, fields, released = twin.receive(Kind.INFER)
    assert (kind, fields, released) == (Kind.INFER, "fields", [list(block.key)])
    twin.send([Kind.REPLY, call_id, RESPONSE, []])
    assert waiter.join() == [Kind.REPLY, call_id, RESPONSE, []]


def test_replies_find_their_callers_in_whatever_order_they_come(twin: SupervisorTwin) -> None:
    waiters = {number: Waiter(twin.channel.call, Kind.INFER, number) for number in range(6)}
    calls = {}
    for _ in waiters:
        _, call_id, number, _ = twin.receive(Kind.INFER)
        calls[number] = call_id
    assert len(set(calls.values())) == 6
    for number, call_id in reversed(calls.items()):
        twin.send([Kind.REPLY, call_id, [[], None, {"n": number}], []])
    for number, waiter in waiters.items():
        assert waiter.join()[2] == [[], None, {"n": number}]


def test_a_reply_and_a_command_in_one_read_reach_both_threads(twin: SupervisorTwin) -> None:
    for _ in range(50):
        caller = Waiter(twin.channel.call, Kind.INFER, "fields")
        worker = Waiter(twin.channel.next_command)
        _, call_id, _, _ = twin.receive(Kind.INFER)
        twin.send([Kind.EXECUTE, 7, [], []], [Kind.REPLY, call_id, RESPONSE, []])
        assert caller.join()[1] == call_id
        assert worker.join()[1] == 7


def test_the_leader_that_has_its_message_leaves_reading_to_a_follower(twin: SupervisorTwin) -> None:
    caller = Waiter(twin.channel.call, Kind.INFER, "fields")
    _, call_id, _, _ = twin.receive(Kind.INFER)
    worker = Waiter(twin.channel.next_command)
    twin.send([Kind.REPLY, call_id, RESPONSE, []])
    assert caller.join()[1] == call_id
    twin.send([Kind.FINALIZE])
    assert worker.join() == [Kind.FINALIZE]


def test_the_end_of_the_channel_wakes_every_thread(twin: SupervisorTwin) -> None:
    waiters = [Waiter(twin.channel.call, Kind.INFER, number) for number in range(3)]
    waiters.append(Waiter(twin.channel.next_command))
    for _ in range(3):
        twin.receive(Kind.INFER)
    twin.hang_up()
    assert [type(waiter.join()) for waiter in waiters] == [EOFError] * 4


def test_commands_read_before_the_end_are_still_handed_out(twin: SupervisorTwin) -> None:
    twin.send([Kind.EXECUTE, 1, [], []])
    twin.hang_up()
    assert twin.channel.next_command()[1] == 1
    with pytest.raises(EOFError):
        twin.channel.next_command()


def test_released_blocks_are_told_before_the_wait_for_a_command(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    twin.store.open({}, reference)
    worker = Waiter(twin.channel.next_command)
    assert twin.receive(Kind.RELEASE) == [Kind.RELEASE, [list(block.key)]]
    twin.send([Kind.FINALIZE])
    worker.join()


@pytest.mark.parametrize("kind", [Kind.EXECUTE, Kind.FREE, Kind.REPLY])
def test_blocks_that_nobody_reads_any_more_are_freed(twin: SupervisorTwin, kind: int) -> None:
    key = twin.store.place(b"hello").reference()[:2]
    message: list[Any] = [kind, 1, [], [key]] if kind != Kind.FREE else [kind, [key]]
    twin.send(message, [Kind.FINALIZE])
    while twin.channel.next_command() != [Kind.FINALIZE]:
        pass
    assert twin.store.arena.stats().blocks == 0


def test_idle_chunks_are_given_back_on_demand(twin: SupervisorTwin) -> None:
    first = twin.store.place(b"a" * twin.arena.settings.default_nbytes)
    twin.store.place(b"b")
    twin.send([Kind.TRIM], [Kind.TRIM], [Kind.FINALIZE])
    twin.channel.next_command()
    assert twin.receive(Kind.GONE) == [Kind.GONE, [first.reference()[0] + 1]]


def test_messages_of_many_threads_stay_whole(twin: SupervisorTwin) -> None:
    """Frames far larger than the socket's buffer, so that a send is interrupted."""
    threads = [
        threading.Thread(target=twin.channel.send, args=([Kind.RESULT, number, [bytes([number]) * 300_000], [], []],))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    received = [twin.receive(Kind.RESULT) for _ in threads]
    for thread in threads:
        thread.join()
    assert sorted(message[1] for message in received) == list(range(8))
    assert all(message[2] == [bytes([message[1]]) * 300_000] for message in received)
