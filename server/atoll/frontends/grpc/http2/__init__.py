"""gRPC on HTTP/2 of our own, on the server's event loop: why it is, how it is built, and what bounds what.

grpcio's server takes several times as long for an empty call as this one, and copies every tensor; so these modules
are the default transport. What a call means is not their business: ``grpc.service`` takes a message's bytes and a
callback, whatever carries them, and ``--grpc-transport=grpcio`` puts the other transport in front of it.

Layers, each knowing only those below it::

    frontend     ports, TLS, start and stop; the clock of every connection; the sweep
       │
    connection ── outlet        one socket: bytes in, frames out, and its end
       │
    reading      bytes → frames (DATA in pieces, header blocks whole)
       │
    session      RFC 9113's rules: which streams there are, what may come for them, what is said to that
       │  ├── header_blocks     HPACK in, literals out; a repeated block costs one look-up
       │  ├── receiving         credit for what came          } over ``windows``
       │  ├── sending           data when windows and socket  }
       │  │                     let it go, streams in turn   }
       │  └── limits, pings     what a client may do how often
       │
    rpcs, calls  gRPC: kinds of calls, deadlines, answers and statuses; ``statuses`` has their header blocks
       └── messages             five bytes and a message, cut out of the data of a stream, or into a block of an arena

``frames`` and ``streams`` are what all of them speak of. ``session`` does not know gRPC: a call is the few methods of
``streams.Call``. All runs on one loop, and nothing waits: what cannot go on now is noted where the event that lets it
go on will find it (a stream in ``Sender``, a held ``MessageReader``).

**A unary call, frame by frame.** One read usually brings all of the request::

    HEADERS    FrameReader._on_headers → Session._on_block: the block's bytes are in BlockReader's memo, the Stream is
               made, CallOpener.open makes the call by its path, its deadline is set
    DATA       on_data_begin counts it against both windows; on_data hands the piece to call.receive; MessageReader
               gives the message: copied if it came whole; a larger one goes into its model's arena as it arrives, its
               first tensor on 64 bytes (InferenceService.room reads model and offset off the first bytes)
    END_STREAM call.finish → InferenceService.infer → the core; the Request comes back, for cancelling
    …          the core calls _done with the parts of the answer, one loop turn or one minute later
    HEADERS    Sender.answer: where it fits the windows, a frame's size and the socket, head, data and trailers are one
    DATA       write, which leaves at the end of the loop's turn with all others (Outlet). Else the parts wait in the
    HEADERS    stream's outbox, as views of the response's blocks, and are sent as windows and socket open
    END_STREAM Session._sent_all: the stream is no more. If its client had not ended its side: RST_STREAM(NO_ERROR)

ModelStreamInfer differs in that messages go on at once and that answers come in many parts. A failure before the head
was sent is one HEADERS frame with everything ("trailers-only"). RST_STREAM, the connection's end and the deadline all
lead to ``Call.abort`` or ``_expire``, which cancel the request in the core.

**Flow control.** In: a stream's window is 4 MiB, the connection's 32; credit is given in halves as data is taken in. A
call that takes no more (its client does not read its answers; a large message is inflated in a thread) is *held*: its
reader keeps what comes, no credit is given, so at most a window is kept. Out: a stream whose own window is closed waits
for the WINDOW_UPDATE that names it; one that waits for the connection's window or the socket is in ``Sender._ready``,
and these take turns. While the socket is full nothing is read from it either: who does not listen may not make us say
more.

**What is bounded by what** (numbers in ``limits``):

==============================================  ================================================================
streams, and calls in them                      MAX_CONCURRENT_STREAMS, REFUSED_STREAM beyond
rapid resets, by either side's RST_STREAM       an allowance; the call is cancelled and its stream gone at once
PING, SETTINGS, PRIORITY, unknown frames        allowances; gRPC's ping strikes (``pings``)
empty DATA, CONTINUATION                        counted in a row
header blocks, and what they decode to          MAX_BLOCK_NBYTES, MAX_LIST_NBYTES; COMPRESSION_ERROR ends the connection
requests that arrive                            windows; MAX_ARRIVING_NBYTES on a connection; the model's arena
a compressed message                            2^31 - 1 bytes inflated; beyond a MiB beside the loop
answers not read                                a stream's outbox: no more requests, receipts hold back the model
what does not move                              the sweep, after STALL_S: requests and answers begun, a full socket,
                                                a client that has not said its preface; deadlines hold until sent
a client that is gone                           keepalive
a connection that has ended                     LINGER_S, once all is sent; TLS has a time of its own
==============================================  ================================================================

Tests: ``tests/frontends/http2`` speaks in frames (``frame_peer``); ``tests/frontends/grpc`` and ``tests/conformance``
run grpcio's client and tritonclient, over both transports.
"""
