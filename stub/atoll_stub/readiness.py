"""Answers the supervisor's CHECK by the model's own ``is_ready``, in a thread beside ``execute``.

Started only for models that have one: with a second thread waiting, a message may come in through the wrong one and
must be handed over, which the plain path is spared.
"""

import inspect
import threading
from typing import Any, Union

from atoll_ipc.wire import Kind
from triton_python_backend_utils._model import Model

from atoll_stub.channel import Channel
from atoll_stub.coroutines import CoroutineLoop
from atoll_stub.rendering import render_exception

__all__ = ["ReadinessChecker"]


class ReadinessChecker:
    """Calls ``is_ready`` when asked, one call at a time."""

    def __init__(self, channel: Channel, model: Model, coroutines: CoroutineLoop) -> None:
        self._channel = channel
        self._model = model
        self._coroutines = coroutines

    def start(self) -> None:
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                _, check_id = self._channel.next_check()
                self._channel.send([Kind.CHECKED, check_id, self._check()])
            except (EOFError, OSError):
                return  # the supervisor is gone; the main thread sees to that

    def _check(self) -> Union[bool, str]:
        """The model's answer, or why there is none."""
        try:
            ready: Any = self._model.instance.is_ready()
            if inspect.iscoroutine(ready):
                ready = self._coroutines.start(ready).result()
        except BaseException as error:
            return render_exception(error)
        if type(ready) is not bool:
            return "is_ready() must return a boolean value"
        return ready
