"""What a model asks of whatever decides which instance executes which requests, and when; and what it is told."""

from __future__ import annotations

from typing import Protocol

from atoll.errors import ServerError
from atoll.inference import Request
from atoll.instances.instance import Instance

__all__ = ["Rejected", "Scheduler", "SchedulerOwner"]


class Rejected(ServerError):
    """A queue has no place for a request. It counts as a failure of the reason REJECTED."""


class SchedulerOwner(Protocol):
    """Whose requests a scheduler keeps. All calls come on the event loop."""

    def dropped(self, request: Request, error: ServerError) -> None:
        """A queued request will not be executed: it waited too long, or (CANCELLED) others were cancelled with it."""


class Scheduler(Protocol):
    """One model's scheduler. All calls come on the event loop; requests leave it by ``instance.execute``."""

    @property
    def pending(self) -> int:
        """Requests whose execution has not begun."""

    def submit(self, request: Request) -> None:
        """Take a request. Raises ServerError when it is refused, Rejected where only the moment was wrong."""

    def cancel(self, request: Request) -> bool:
        """Take a queued request out; False when it is not queued, for an instance has it."""

    def is_queued(self, request: Request) -> bool:
        """Whether no instance has the request yet."""

    def freed(self, instance: Instance) -> None:
        """An instance came up, or finished an execution."""

    def died(self, instance: Instance, unstarted: list[Request]) -> list[Request]:
        """An instance died with requests that it had not started. The queued ones that only it could have executed."""

    def stop(self) -> list[Request]:
        """Nothing is handed out any more; returns what still waits."""
