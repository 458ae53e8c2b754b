"""How a process that a model forked comes to a channel of its own: both ends of the stub's side door.

A forked child has its parent's channel too, and must not touch it: two processes would read and write one stream. So
every stub has one more socket, the *side door*, which its children inherit. It is no listener and has no name. Who
knocks makes a channel and a lane itself and gives the supervisor the far ends of both, in one datagram on the door, so
that many children may knock at once and none has to wait for another::

    child       door:  1 byte  + descriptors: channel, lane     (SEQPACKET; a datagram is never cut or mixed)
    supervisor  lane:  first chunk id, u64 LE                   (of the arena that the child may have)

From then on channel and lane are as in :mod:`atoll_ipc.wire`, and last as long as the child.
"""

import array
import socket
import struct
from typing import Tuple

__all__ = ["admit", "knock"]

_WELCOME = struct.Struct("<Q")
_ENDS = 2


def knock(door: socket.socket) -> Tuple[socket.socket, socket.socket, int]:
    """Called in a forked child: ``(connection, lane, first chunk id)``. Raises OSError when the supervisor is gone."""
    connection, far_connection = socket.socketpair()
    lane, far_lane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far_connection, far_lane:
        ends = array.array("i", [far_connection.fileno(), far_lane.fileno()])
        door.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ends)])
    for end in (connection, lane):
        end.settimeout(None)  # models set a default timeout for sockets of their own
    welcome = lane.recv(_WELCOME.size)
    if not welcome:
        raise ConnectionError("the supervisor is gone")
    return connection, lane, _WELCOME.unpack(welcome)[0]


def admit(door: socket.socket, first_chunk_id: int) -> Tuple[socket.socket, socket.socket]:
    """Called in the supervisor when ``door`` is readable: the child's connection and lane.

    Raises EOFError when nobody is left who could knock.
    """
    data, ancillary, _, _ = door.recvmsg(1, socket.CMSG_SPACE(4 * _ENDS), socket.MSG_CMSG_CLOEXEC)
    if not data or not ancillary:
        raise EOFError("the side door is shut")
    connection, lane = (socket.socket(fileno=fd) for fd in array.array("i", ancillary[0][2]))
    lane.send(_WELCOME.pack(first_chunk_id))
    return connection, lane
