"""Requests without a pause, from several connections, while something else happens to the server."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from calling import Caller
from serving import Served

__all__ = ["Hammer", "hammering"]


class Hammer:
    """What came of the requests so far."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._changed = threading.Condition()
        self._stopped = False

    def wait_for_answers(self, word: str, count: int = 1, timeout_s: float = 20) -> None:
        """Until so many more requests than now were answered with a word."""
        with self._changed:
            enough = self.answers[word] + count
            assert self._changed.wait_for(lambda: self.answers[word] >= enough, timeout_s), (word, self.answers)

    def _run(self, served: Served, model: str) -> None:
        with Caller(served) as caller:
            while not self._stopped:
                answer = caller(model, {"IN": ["?"]})
                with self._changed:
                    if answer.status == 200:
                        self.answers[answer["OUT"][0].decode()] += 1
                    else:
                        self.failures.append(answer.error)
                    self._changed.notify_all()

    def stop(self) -> None:
        self._stopped = True


@contextlib.contextmanager
def hammering(served: Served, model: str, connections: int = 3) -> Iterator[Hammer]:
    """Call a model that answers with a word, all the time; none of the requests may have failed at the end."""
    hammer = Hammer()
    threads = [threading.Thread(target=hammer._run, args=(served, model)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield hammer
    finally:
        hammer.stop()
        for thread in threads:
            thread.join()
    assert hammer.failures == []
