"""The warm parent: a process that has numpy and the stub imported, and forks a stub on request.

An interpreter with numpy takes about a tenth of a second to start, a fork of a warmed one half a millisecond. There is
one warm parent per execution environment. It has no threads of ours, runs no user code, and ends with the
supervisor, as its stubs end with it.

Requests are datagrams of JSON with the stub's descriptors as ancillary data; so are the reports::

    {"spawn": ID, "title": …, "first_chunk_id": …, "arena": […]}  + channel, lane, stdout, stderr, perhaps side door
    {"spawned": ID, "pid": PID}
    {"exited": PID, "status": WAIT_STATUS}
"""

import array
import gc
import json
import os
import select
import signal
import socket
import sys
import warnings
from typing import Any, Dict, List, NoReturn, Tuple

from atoll_ipc.memory import ArenaSettings

from atoll_stub.channel import Channel
from atoll_stub.instance import Instance
from atoll_stub.memory import Store
from atoll_stub.process import become_stub, resume_signals, set_title, tie_to_parent

__all__ = ["main", "serve"]

_DESCRIPTORS = 5


def main() -> None:
    """Called when the process starts: arguments are the control socket's descriptor and the supervisor's pid.

    A third argument is padding: it makes room in the argument area for the titles of the stubs.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    tie_to_parent(int(sys.argv[2]))
    set_title("triton_python_backend_stub_parent")
    try:
        serve(control)
    except (KeyboardInterrupt, ConnectionError):
        pass


def serve(control: socket.socket) -> None:
    """Fork on request and report exits, until the supervisor closes the control socket."""
    # The supervisor ends us; a Ctrl-C on its terminal is its business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    gc.collect()
    gc.freeze()  # what is imported stays shared with the children: a collection would touch every object's page
    sources: List[Any] = [control, woken]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_exits(control)
        if control in ready:
            request, descriptors = _receive(control)
            if request is None:
                return
            _fork(control, request, descriptors)


def _receive(control: socket.socket) -> Tuple[Any, List[int]]:
    data, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(4 * _DESCRIPTORS), socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None, []
    descriptors = array.array("i", ancillary[0][2]).tolist() if ancillary else []
    return json.loads(data), descriptors


def _report_exits(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.send(json.dumps({"exited": pid, "status": status}).encode())


def _fork(control: socket.socket, request: Dict[str, Any], descriptors: List[int]) -> None:
    parent_pid = os.getpid()
    with warnings.catch_warnings():
        # OpenBLAS may have threads of its own; it stops them around a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        control.close()
        _run_stub(request, parent_pid, *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    control.send(json.dumps({"spawned": request["spawn"], "pid": pid}).encode())


def _run_stub(
    request: Dict[str, Any], parent_pid: int, channel: int, lane: int, stdout: int, stderr: int, *door: int
) -> NoReturn:
    """Called in the child. Leaves the process the ordinary way, so that atexit handlers and buffers are served."""
    become_stub(request["title"], parent_pid, stdout, stderr)
    store = Store(socket.socket(fileno=lane), request["first_chunk_id"], ArenaSettings(*request["arena"]))
    side_door = socket.socket(fileno=door[0]) if door else None
    instance = Instance(Channel(socket.socket(fileno=channel), store), side_door)
    os.register_at_fork(after_in_child=instance.after_fork)
    os.register_at_fork(after_in_child=resume_signals)
    try:
        instance.run()
    except (EOFError, ConnectionError):
        print("Non-graceful termination detected. ", file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
