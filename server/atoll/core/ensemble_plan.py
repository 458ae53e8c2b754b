"""The order of an ensemble's steps: pure state, no models, no requests and no clock.

A :class:`Plan` is what follows from the configuration, a :class:`Run` is one request's way through it. The shell tells
a run what happened and does what it says (:class:`Progress`): which steps to start, which answers to give.

1. A step is started when every tensor that it maps is *decided*: it is there, or it is *absent*, because the client or
   the step before left it out. An absent tensor is not given to the step; whether it may be, the step's model says.
2. Each response of a decoupled step opens a *pass* of its own: the steps behind run once in each pass. A pass sees its
   own tensors and those of the passes that it came from. What does not depend on a decoupled step runs in the first.
3. All requested outputs belong to one kind of pass; each pass of that kind gives one answer.
4. Steps that no requested output needs are not run.
5. Of one step at most ``max_inflight`` tasks run at a time; the others wait their turn.
6. What the shell gives with a response of a decoupled step, its *receipt*, lives as long as the pass, and then in the
   answer: while it lives, the sender may be held back.
7. After a failure nothing is started; the run ends when what is running has ended. A pass that comes to its end by
   that still answers.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Pass", "Plan", "Progress", "Run", "Step", "Task", "origins"]

Values = Mapping[str, Any]
"""What the shell attaches to tensors, by the ensemble's names; None for one that is absent."""


@dataclass(frozen=True, slots=True)
class Step:
    """A model, and the ensemble's tensors that its inputs and outputs are (by the model's names)."""

    model_name: str
    model_version: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    namespace: str = ""

    @classmethod
    def from_json(cls, step: Mapping[str, Any], namespace: str) -> Step:
        """From the configuration, as the API shows it; ``namespace`` is the ensemble's own."""
        names = step["input_map"], step["output_map"]
        return cls(step["model_name"], step["model_version"], *names, step["model_namespace"] or namespace)


def origins(steps: Sequence[Step], decoupled: Collection[int]) -> dict[str, set[int]]:
    """For every tensor that a step makes, the last decoupled steps on the ways to it; more than one is a fault."""
    found: dict[str, set[int]] = {}
    makers = {tensor: index for index, step in enumerate(steps) for tensor in step.outputs.values()}

    def origin(tensor: str) -> set[int]:
        if tensor in found or tensor not in makers:
            return found.get(tensor, set())
        index = makers[tensor]
        found[tensor] = set()  # where steps wait for each other, the way ends here
        found[tensor] = {index} if index in decoupled else set().union(*map(origin, steps[index].inputs.values()))
        return found[tensor]

    for tensor in makers:
        origin(tensor)
    return found


class Plan:
    """What is known before any request. ``decoupled`` holds the indices of steps that answer any number of times."""

    def __init__(self, steps: Sequence[Step], decoupled: Collection[int] = (), max_inflight: int = 0) -> None:
        self.steps = tuple(steps)
        self.decoupled = frozenset(decoupled)
        self.max_inflight = max_inflight
        self._makers = {tensor: index for index, step in enumerate(steps) for tensor in step.outputs.values()}
        self._origins = origins(steps, decoupled)
        self._needs: dict[tuple[str, ...], _Needs] = {}

    def run(self, outputs: Sequence[str]) -> Run:
        """A request that asks for these of the ensemble's tensors."""
        key = tuple(outputs)
        needs = self._needs.get(key)
        if needs is None:
            needs = self._needs[key] = self._find_needs(key)
        return Run(self, needs)

    def _find_needs(self, outputs: tuple[str, ...]) -> _Needs:
        tensors: set[str] = set()
        pending = list(outputs)
        while pending:
            tensor = pending.pop()
            if tensor not in tensors:
                tensors.add(tensor)
                if tensor in self._makers:
                    pending += self.steps[self._makers[tensor]].inputs.values()
        steps: dict[int | None, list[int]] = collections.defaultdict(list)
        kept, taken = set(outputs), set[str]()
        for index in sorted({self._makers[tensor] for tensor in tensors if tensor in self._makers}):
            inputs = self.steps[index].inputs.values()
            runs_in = self._origin(inputs)
            steps[runs_in].append(index)
            taken.update(inputs)
            kept.update(tensor for tensor in inputs if self._origin([tensor]) != runs_in)
        answers_in = self._origin(outputs)
        return _Needs(outputs, frozenset(tensors), dict(steps), answers_in, frozenset(taken), frozenset(kept))

    def _origin(self, tensors: Iterable[str]) -> int | None:
        """The decoupled step whose responses open the passes in which all these tensors are seen."""
        return next((index for tensor in tensors for index in self._origins.get(tensor, ())), None)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What it takes to make some outputs."""

    outputs: tuple[str, ...]
    tensors: frozenset[str]
    steps: dict[int | None, list[int]]
    """By the decoupled step in whose passes they run; None for the first pass."""
    answers_in: int | None
    """In which passes the outputs come together."""
    taken: frozenset[str]
    """By steps."""
    kept: frozenset[str]
    """Tensors that a pass keeps for good: outputs, and what inner passes may ask for."""


@dataclass(eq=False, slots=True)
class Pass:
    """One way through the steps: ``opened_by`` is the decoupled step whose response began it."""

    opened_by: int | None
    parent: Pass | None
    values: dict[str, Any]
    inner: dict[Pass, None] = field(default_factory=dict)
    unstarted: list[int] = field(default_factory=list)
    running: int = 0
    answered: bool = False
    receipt: object = None

    def has(self, tensor: str) -> bool:
        return tensor in self.values or (self.parent is not None and self.parent.has(tensor))

    def get(self, tensor: str) -> Any:
        if tensor in self.values or self.parent is None:
            return self.values.get(tensor)
        return self.parent.get(tensor)


@dataclass(eq=False, slots=True)
class Task:
    """One step in one pass."""

    step: int
    into: Pass
    _inputs: dict[str, Any]
    responded: bool = False

    def take_inputs(self) -> dict[str, Any]:
        """What the shell attached to the step's inputs, by the model's names; once, so that nothing stays here."""
        inputs, self._inputs = self._inputs, {}
        return inputs


@dataclass(slots=True)
class Answer:
    """Values of the requested outputs, by name."""

    values: dict[str, Any]
    receipt: object = None


@dataclass(slots=True)
class Progress:
    """What is to be done now."""

    starts: list[Task] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Run:
    """One request on its way."""

    def __init__(self, plan: Plan, needs: _Needs) -> None:
        self._plan = plan
        self._needs = needs
        self._first = Pass(None, None, {})
        self._running = 0
        self._stopped = False
        self._inflight: collections.Counter[int] = collections.Counter()
        self._waiting: dict[int, collections.deque[Task]] = collections.defaultdict(collections.deque)

    @property
    def steps(self) -> list[int]:
        """The steps that are needed."""
        return [index for indices in self._needs.steps.values() for index in indices]

    @property
    def is_done(self) -> bool:
        """Whether nothing runs any more."""
        return self._running == 0

    @property
    def is_deadlocked(self) -> bool:
        """Whether there is a pass that can neither go on nor answer, with nothing running."""
        return not self._stopped and self.is_done and self._is_stuck(self._first)

    def wanted(self, step: int) -> list[str]:
        """The outputs of a step that somebody needs, by the model's names."""
        outputs = self._plan.steps[step].outputs
        return [name for name, tensor in outputs.items() if tensor in self._needs.tensors]

    def is_only_answered(self, tensor: str) -> bool:
        """Whether a tensor goes to the client and to no step."""
        return tensor in self._needs.outputs and tensor not in self._needs.taken

    def begin(self, values: Values) -> Progress:
        """The client's tensors, by the ensemble's names; one that is not among them is absent."""
        made = {tensor for step in self._plan.steps for tensor in step.outputs.values()}
        self._first.values = {tensor: values.get(tensor) for tensor in self._needs.tensors - made}
        progress = Progress()
        self._open(self._first, progress)
        return progress

    def responded(self, task: Task, values: Values | None, final: bool, receipt: object = None) -> Progress:
        """A step answered with these tensors (by the ensemble's names); None for the final flag alone."""
        progress = Progress()
        if task.step in self._plan.decoupled:
            if values is not None:
                inner = Pass(task.step, task.into, self._decided(task.step, values), receipt=receipt)
                task.into.inner[inner] = None
                self._open(inner, progress)
        elif not task.responded and (values is not None or final):
            task.into.values.update(self._decided(task.step, values or {}))
            self._advance(task.into, progress)
        task.responded = True
        if final:
            self._end(task, progress)
        return progress

    def failed(self, task: Task, final: bool) -> None:
        """A step answered with an error, or could not be started."""
        self.stop()
        if final:
            self._end(task, Progress())

    def stop(self) -> None:
        """Start nothing any more."""
        self._stopped = True
        self._waiting.clear()

    # -- passes

    def _decided(self, step: int, values: Values) -> dict[str, Any]:
        return {tensor: values.get(tensor) for tensor in self._plan.steps[step].outputs.values()}

    def _open(self, opened: Pass, progress: Progress) -> None:
        opened.unstarted = list(self._needs.steps.get(opened.opened_by, ()))
        self._advance(opened, progress)
        self._drop_ended(opened)

    def _advance(self, current: Pass, progress: Progress) -> None:
        """Start and answer what new tensors of a pass make possible, there and in the passes that came from it."""
        steps = self._plan.steps
        ready = [] if self._stopped else [index for index in current.unstarted if self._is_ready(index, current)]
        for index in ready:
            current.unstarted.remove(index)
            inputs = {name: current.get(tensor) for name, tensor in steps[index].inputs.items()}
            self._start(Task(index, current, inputs), progress)
        for index in ready:
            self._let_go(current, steps[index].inputs.values())
        needs = self._needs
        if needs.answers_in == current.opened_by and not current.answered and all(map(current.has, needs.outputs)):
            current.answered = True
            progress.answers.append(Answer({output: current.get(output) for output in needs.outputs}, current.receipt))
        for inner in list(current.inner):
            self._advance(inner, progress)
            self._drop_ended(inner)

    def _is_ready(self, step: int, current: Pass) -> bool:
        return all(map(current.has, self._plan.steps[step].inputs.values()))

    def _let_go(self, current: Pass, tensors: Iterable[str]) -> None:
        """Keep no tensor that every step behind it has been given: it may hold a lot of memory."""
        steps = self._plan.steps
        for tensor in tensors:
            if (
                tensor not in self._needs.kept
                and tensor in current.values
                and not any(tensor in steps[index].inputs.values() for index in current.unstarted)
            ):
                current.values[tensor] = None

    def _drop_ended(self, current: Pass) -> None:
        """Forget passes that have come to their end: a stream may open any number of them."""
        while current.parent is not None and not (
            current.running or current.inner or current.unstarted or self._owes_answer(current)
        ):
            current.parent.inner.pop(current, None)
            current = current.parent

    def _owes_answer(self, current: Pass) -> bool:
        return self._needs.answers_in == current.opened_by and not current.answered

    def _is_stuck(self, current: Pass) -> bool:
        return bool(current.unstarted) or self._owes_answer(current) or any(map(self._is_stuck, current.inner))

    # -- tasks

    def _start(self, task: Task, progress: Progress) -> None:
        task.into.running += 1
        limit = self._plan.max_inflight
        if limit and self._inflight[task.step] >= limit:
            self._waiting[task.step].append(task)
        else:
            self._go(task, progress)

    def _go(self, task: Task, progress: Progress) -> None:
        self._inflight[task.step] += 1
        self._running += 1
        progress.starts.append(task)

    def _end(self, task: Task, progress: Progress) -> None:
        self._running -= 1
        self._inflight[task.step] -= 1
        task.into.running -= 1
        waiting = self._waiting.get(task.step)
        if waiting:
            self._go(waiting.popleft(), progress)
        self._drop_ended(task.into)
