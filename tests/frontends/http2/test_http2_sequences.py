"""Any sequence of frames, against a small model of what each may bring about.

The model is what RFC 9113 has a client know: per stream whether its own side is open. It predicts for each step whether
the connection must end, which stream must be reset, and which call must be answered; what the server says beyond that,
and any exception on its loop, is a failure.
"""

from __future__ import annotations

from atoll.frontends.grpc.http2.frames import ErrorCode, FrameType
from atoll_protos import messages
from conftest import OpenPeer
from frame_peer import LIVE, Gone, Peer, frame, framed, request_fields
from grpc_harness import Client, Frontends
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IDS = st.sampled_from([1, 3, 5, 7, 9])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), IDS, st.booleans()),
        st.tuples(st.just("data"), IDS, st.booleans()),
        st.tuples(st.just("empty"), IDS, st.booleans()),
        st.tuples(st.just("trailers"), IDS, st.booleans()),
        st.tuples(st.sampled_from(["reset", "widen", "nothing", "priority"]), IDS, st.just(False)),
        st.tuples(st.sampled_from(["settings", "unknown", "bad"]), st.just(1), st.just(False)),
    ),
    max_size=25,
)


class Model:
    """What must follow from the frames sent so far."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}  # streams whose client has not ended its side: messages sent
        self.highest = 0
        self.resets: dict[int, ErrorCode] = {}
        self.answered: dict[int, str] = {}
        self.gone: set[ErrorCode] = set()

    def step(self, what: str, number: int, end: bool) -> None:
        if self.gone or what in ("settings", "unknown", "priority"):
            return
        if what == "bad":
            self.gone = {ErrorCode.PROTOCOL_ERROR}
        elif what in ("open", "trailers"):
            self._headers(number, end, has_pseudo=what == "open")
        elif number > self.highest:
            self.gone = {ErrorCode.PROTOCOL_ERROR}
        elif what == "reset":
            self.open.pop(number, None)
        elif what == "nothing":
            if number in self.open:
                self._reset(number, ErrorCode.PROTOCOL_ERROR)
        elif what in ("data", "empty"):
            if number in self.open:
                self.open[number] += what == "data"
                if self.open[number] > 1:  # answered before the client has ended its side
                    self._answer(number)
                    self.resets[number] = ErrorCode.NO_ERROR
                elif end:
                    self._answer(number)
            elif number not in self.resets:
                self.resets[number] = ErrorCode.STREAM_CLOSED

    def _headers(self, number: int, end: bool, has_pseudo: bool) -> None:
        if number in self.open:
            if has_pseudo or not end:
                self._reset(number, ErrorCode.PROTOCOL_ERROR)
            else:
                self._answer(number)
        elif number <= self.highest:
            if number not in self.resets:
                self.gone = {ErrorCode.STREAM_CLOSED}
        else:
            self.highest = number
            self.open[number] = 0
            if not has_pseudo:
                self._reset(number, ErrorCode.PROTOCOL_ERROR)
            elif end:
                self._answer(number)

    def _answer(self, number: int) -> None:
        self.answered[number] = "0" if self.open.pop(number) == 1 else "13"

    def _reset(self, number: int, code: ErrorCode) -> None:
        self.open.pop(number)
        self.resets[number] = code


def said(peer: Peer, what: str, number: int, end: bool) -> bytes:
    if what == "open":
        return peer.headers(number, request_fields(LIVE), end)
    if what == "trailers":
        return peer.headers(number, [("x", "y")], end)
    return {
        "data": peer.data(number, framed(messages.ServerLiveRequest()), end),
        "empty": peer.data(number, b"", end),
        "reset": peer.reset(number),
        "widen": peer.widen(number, 10),
        "nothing": peer.widen(number, 0),
        "priority": frame(FrameType.PRIORITY, 0, number, bytes(5)),
        "settings": frame(FrameType.SETTINGS),
        "unknown": frame(0x77, 0xFF, number, b"?"),
        "bad": frame(FrameType.PING, 0, number, bytes(8)),
    }[what]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, at_once=st.booleans())
def test_any_sequence_of_frames(
    frontends: Frontends, open_peer: OpenPeer, client: Client, steps: list[tuple[str, int, bool]], at_once: bool
) -> None:
    """Each frame by itself: what it brings about is there before the next; so which of two ends came first is known."""
    peer, model = open_peer(), Model()
    try:
        for step in steps:
            model.step(*step)
            peer.send_or_gone(said(peer, *step))
            if not at_once or step[0] in ("open", "data", "empty", "trailers"):
                settle(peer, model)
        settle(peer, model)
        if not model.gone:
            assert peer.is_alive(101)
    except Gone:
        pass
    assert bool(peer.goaways) == bool(model.gone)
    if model.gone:
        assert peer.goaways[-1][1] in model.gone
    else:
        for number, code in model.resets.items():
            assert peer.answers[number].reset == code
        for number, answer in peer.answers.items():
            assert answer.reset is None or number in model.resets, number
            assert not answer.ended or number == 101 or number in model.answered, number
            if answer.ended and number != 101:
                assert answer.status == model.answered[number]
    peer.close()
    assert client.call("ServerLive").live


def settle(peer: Peer, model: Model) -> None:
    """Hear what must come."""
    if model.gone:
        peer.wait_for(lambda: False)
    for number in model.answered:
        peer.answer(number)
    for number in model.resets:
        peer.reset_of(number)
