"""Threads that wait on one channel: whoever reads hands the others theirs."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from atoll_ipc.wire import Kind, pack
from atoll_stub import channel as channel_module
from stub_twin import TIMEOUT_S, SupervisorTwin, execute, reply

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


def ask(twin: SupervisorTwin, fields: Any = "fields") -> list[Any]:
    """Call, and wait for the only answer."""
    call = twin.channel.call(Kind.INFER, fields, twin.store.take_released())
    try:
        return call.next()
    finally:
        call.close()


def test_commands_come_in_order_also_when_read_at_once(twin: SupervisorTwin) -> None:
    twin.send([Kind.LOAD, {}], execute(1), [Kind.FINALIZE])
    kinds = [twin.channel.next_command()[0] for _ in range(3)]
    assert kinds == [Kind.LOAD, Kind.EXECUTE, Kind.FINALIZE]


def test_a_call_carries_its_fields_and_what_was_released(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    twin.store.open({}, reference)
    waiter = Waiter(ask, twin)
    kind, call_id, fields, released = twin.receive(Kind.INFER)
    assert (kind, fields, released) == (Kind.INFER, "fields", [list(block.key)])
    twin.send(reply(call_id, RESPONSE))
    assert waiter.join() == reply(call_id, RESPONSE)


def test_replies_find_their_callers_in_whatever_order_they_come(twin: SupervisorTwin) -> None:
    waiters = {number: Waiter(ask, twin, number) for number in range(6)}
    calls = {}
    for _ in waiters:
        _, call_id, number, _ = twin.receive(Kind.INFER)
        calls[number] = call_id
    assert len(set(calls.values())) == 6
    for number, call_id in reversed(calls.items()):
        twin.send(reply(call_id, [[], None, {"n": number}]))
    for number, waiter in waiters.items():
        assert waiter.join()[2] == [[], None, {"n": number}]


def test_a_reply_and_a_command_in_one_read_reach_both_threads(twin: SupervisorTwin) -> None:
    for _ in range(50):
        caller = Waiter(ask, twin)
        worker = Waiter(twin.channel.next_command)
        _, call_id, _, _ = twin.receive(Kind.INFER)
        twin.send(execute(7), reply(call_id, RESPONSE))
        assert caller.join()[1] == call_id
        assert worker.join()[1] == 7


def test_the_leader_that_has_its_message_leaves_reading_to_a_follower(twin: SupervisorTwin) -> None:
    caller = Waiter(ask, twin)
    _, call_id, _, _ = twin.receive(Kind.INFER)
    worker = Waiter(twin.channel.next_command)
    twin.send(reply(call_id, RESPONSE))
    assert caller.join()[1] == call_id
    twin.send([Kind.FINALIZE])
    assert worker.join() == [Kind.FINALIZE]


def test_the_end_of_the_channel_wakes_every_thread(twin: SupervisorTwin) -> None:
    waiters = [Waiter(ask, twin, number) for number in range(3)]
    waiters.append(Waiter(twin.channel.next_command))
    for _ in range(3):
        twin.receive(Kind.INFER)
    twin.hang_up()
    assert [type(waiter.join()) for waiter in waiters] == [EOFError] * 4


def test_commands_read_before_the_end_are_still_handed_out(twin: SupervisorTwin) -> None:
    twin.send(execute(1))
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
    messages = {
        Kind.EXECUTE: execute(1, freed=[key]),
        Kind.REPLY: reply(1, RESPONSE, freed=[key]),
        Kind.FREE: [Kind.FREE, [key]],
    }
    twin.send(messages[kind], [Kind.FINALIZE])
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


# -- calls


def test_a_call_is_answered_as_often_as_the_other_side_likes(twin: SupervisorTwin) -> None:
    call = twin.channel.call(Kind.INFER, "fields")
    assert twin.receive(Kind.INFER) == [Kind.INFER, call.id, "fields"]
    twin.send(*[reply(call.id, [[], None, {"n": number}], final=number == 2) for number in range(3)])
    answers = [call.next() for _ in range(3)]
    assert [answer[2][2]["n"] for answer in answers] == [0, 1, 2]
    assert [answer[4] for answer in answers] == [False, False, True]
    call.close()


def test_a_question_of_another_kind_is_answered_by_its_number(twin: SupervisorTwin) -> None:
    first, second = (twin.channel.call(Kind.ASK, "topic", [number]) for number in range(2))
    twin.send([Kind.ANSWER, second.id, "b", None], [Kind.ANSWER, first.id, None, "no"], [Kind.ANSWER, 99, 1, None])
    assert first.next() == [Kind.ANSWER, first.id, None, "no"]
    assert second.next() == [Kind.ANSWER, second.id, "b", None]


def test_a_call_that_is_closed_releases_what_its_answers_referred_to_at_once(twin: SupervisorTwin) -> None:
    call = twin.channel.call(Kind.INFER, "fields")
    twin.receive(Kind.INFER)
    unread, late = (twin.place(b"hello") for _ in range(2))
    twin.send(*[reply(call.id, [[["A", 2, [5], unread[1]]], None, None], final=False) for _ in range(2)])
    call.next()
    twin.channel.poll()
    call.close()
    assert twin.receive(Kind.RELEASE) == [Kind.RELEASE, [list(unread[0].key)]]  # of the one that was not taken
    twin.send(reply(call.id, [[["A", 2, [5], late[1]]], None, None]), [Kind.FINALIZE])
    twin.channel.next_command()
    assert twin.receive(Kind.RELEASE) == [Kind.RELEASE, [list(late[0].key)]]
    call.close()


def test_a_call_that_cannot_be_sent_is_forgotten(twin: SupervisorTwin) -> None:
    with pytest.raises(TypeError):
        twin.channel.call(Kind.INFER, object())
    twin.send(reply(1, [[["A", 2, [5], twin.place(b"hello")[1]]], None, None]), [Kind.FINALIZE])
    assert twin.channel.next_command() == [Kind.FINALIZE]
    assert len(twin.receive(Kind.RELEASE)[1]) == 1


# -- what finalizers do


def test_a_post_is_sent_at_once_when_nobody_sends(twin: SupervisorTwin) -> None:
    twin.channel.post([Kind.GONE, [1]])
    assert twin.receive(Kind.GONE) == [Kind.GONE, [1]]


def test_a_post_from_the_midst_of_a_message_follows_it(twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack_and_collect(message: list[Any]) -> bytes:
        if message[0] == Kind.RESULT:
            twin.channel.post([Kind.GONE, [1]])
            twin.channel.post([Kind.GONE, [2]])
        return pack(message)

    monkeypatch.setattr(channel_module, "pack", pack_and_collect)
    twin.channel.send([Kind.RESULT, 1])
    assert twin.receive(Kind.RESULT) == [Kind.RESULT, 1]
    assert [twin.receive(Kind.GONE)[1] for _ in range(2)] == [[1], [2]]


def test_a_post_waits_for_no_other_thread(twin: SupervisorTwin) -> None:
    held, posted = threading.Event(), threading.Event()

    def hold() -> None:
        with twin.channel.sending:
            held.set()
            assert posted.wait(TIMEOUT_S)
        twin.channel.send([Kind.LOG, 0, "", ""])

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(TIMEOUT_S)
    twin.channel.post([Kind.GONE, [1]])
    posted.set()
    holder.join()
    twin.receive(Kind.LOG)
    assert twin.receive(Kind.GONE) == [Kind.GONE, [1]]


# -- polling


def test_polling_takes_in_what_has_arrived(twin: SupervisorTwin) -> None:
    cancelled: list[Any] = []
    twin.channel.on_cancel = lambda key, drop: cancelled.append((*key, drop))
    twin.channel.poll()
    assert cancelled == []
    twin.send([Kind.CANCEL, 3, 1, False], execute(4))
    twin.channel.poll()
    assert cancelled == [(3, 1, False)]
    assert twin.channel.next_command()[1] == 4


def test_polling_leaves_reading_to_a_thread_that_reads(twin: SupervisorTwin) -> None:
    worker = Waiter(twin.channel.next_command)
    twin.channel.poll()
    twin.send(execute(4))
    assert worker.join()[1] == 4


def test_checks_and_commands_find_their_threads(twin: SupervisorTwin) -> None:
    checker, worker = Waiter(twin.channel.next_check), Waiter(twin.channel.next_command)
    twin.send([Kind.FINALIZE], [Kind.CHECK, 5])
    assert checker.join() == [Kind.CHECK, 5]
    assert worker.join() == [Kind.FINALIZE]
