"""Which steps of an ensemble run when, and what is answered; values are texts that tell where they come from."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
from atoll.core.ensemble_plan import Plan, Progress, Run, Step, Task, origins


def step(text: str) -> Step:
    """``"A B -> C"``: a step whose inputs and outputs have the tensors' names in lower case."""
    inputs, _, outputs = text.partition(" -> ")
    return Step(
        text,
        -1,
        {tensor.lower(): tensor for tensor in inputs.split()},
        {tensor.lower(): tensor for tensor in outputs.split()},
    )


def plan(*texts: str, decoupled: Sequence[int] = (), max_inflight: int = 0) -> Plan:
    return Plan([step(text) for text in texts], decoupled, max_inflight)


class Story:
    """A run, and the tasks that it started and that have not ended."""

    def __init__(self, run: Run, **inputs: str | None) -> None:
        self.run = run
        self.answers: list[dict[str, str | None]] = []
        self.running: list[Task] = []
        self.inputs: dict[Task, dict[str, str | None]] = {}
        self._take(run.begin(inputs))

    def _take(self, progress: Progress) -> None:
        self.answers += [answer.values for answer in progress.answers]
        self.running += progress.starts
        self.inputs.update((task, task.take_inputs()) for task in progress.starts)

    @property
    def steps(self) -> list[int]:
        return [task.step for task in self.running]

    def task(self, index: int) -> Task:
        return next(task for task in self.running if task.step == index)

    def respond(self, index: int, final: bool = True, **values: str | None) -> None:
        """The first running task of a step answers."""
        task = self.task(index)
        if final:
            self.running.remove(task)
        self._take(self.run.responded(task, values, final))

    def end(self, index: int) -> None:
        """The final flag alone."""
        task = self.task(index)
        self.running.remove(task)
        self._take(self.run.responded(task, None, True))


def test_a_step_starts_when_all_its_inputs_are_there() -> None:
    story = Story(plan("A -> B", "A -> C", "B C -> D").run(["D"]), A="a")
    assert story.steps == [0, 1]
    story.respond(1, C="c")
    assert story.steps == [0]
    story.respond(0, B="b")
    assert story.steps == [2]
    assert story.inputs[story.task(2)] == {"b": "b", "c": "c"}
    story.respond(2, D="d")
    assert story.answers == [{"D": "d"}]
    assert story.run.is_done
    assert not story.run.is_deadlocked


def test_only_what_is_needed_runs() -> None:
    both = plan("A -> B", "A -> C", "C -> D E")
    assert Story(both.run(["B"]), A="a").steps == [0]
    run = both.run(["D"])
    assert sorted(run.steps) == [1, 2]
    assert run.wanted(2) == ["d"]
    assert both.run(["D", "E"]).wanted(2) == ["d", "e"]


def test_a_tensor_that_is_wanted_in_between_is_asked_for() -> None:
    run = plan("A -> B", "B -> C").run(["B", "C"])
    story = Story(run, A="a")
    story.respond(0, B="b")
    story.respond(1, C="c")
    assert story.answers == [{"B": "b", "C": "c"}]


def test_what_is_left_out_is_absent() -> None:
    story = Story(plan("A X -> B", "B -> C").run(["C"]), A="a")
    assert story.inputs[story.task(0)] == {"a": "a", "x": None}
    story.respond(0)
    assert story.inputs[story.task(1)] == {"b": None}
    story.respond(1)
    assert story.answers == [{"C": None}]


def test_steps_that_wait_for_each_other_are_a_deadlock() -> None:
    story = Story(plan("A C -> B", "B -> C", "A -> D").run(["C", "D"]), A="a")
    assert story.steps == [2]
    assert not story.run.is_deadlocked
    story.respond(2, D="d")
    assert (story.answers, story.run.is_done, story.run.is_deadlocked) == ([], True, True)


def test_after_a_failure_nothing_starts() -> None:
    story = Story(plan("A -> B", "A -> C", "B -> D", "C -> E").run(["D", "E"]), A="a")
    story.run.failed(story.running.pop(0), final=True)
    assert not story.run.is_done
    story.respond(1, C="c")
    assert (story.steps, story.answers) == ([], [])
    assert story.run.is_done
    assert not story.run.is_deadlocked


def test_a_run_that_is_stopped_waits_for_what_runs() -> None:
    story = Story(plan("A -> B", "B -> C").run(["C"]), A="a")
    story.run.stop()
    story.respond(0, B="b")
    assert (story.steps, story.run.is_done) == ([], True)


def test_of_several_responses_of_an_ordinary_step_the_first_counts() -> None:
    story = Story(plan("A -> B", "B -> C").run(["C"]), A="a")
    story.respond(0, final=False, B="b0")
    story.respond(0, B="b1")
    assert story.inputs[story.task(1)] == {"b": "b0"}


def test_tensors_are_let_go_when_all_have_them() -> None:
    run = plan("A -> B", "B -> C", "B -> D").run(["C", "D"])
    story = Story(run, A="a")
    assert run._first.values["A"] is None
    story.respond(0, B="b")
    assert run._first.values["B"] is None
    assert [story.inputs[task] for task in story.running] == [{"b": "b"}, {"b": "b"}]
    assert story.running[0].take_inputs() == {}


# -- decoupled steps


def test_each_response_of_a_decoupled_step_makes_a_pass() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0]).run(["C"]), A="a")
    story.respond(0, final=False, B="b0")
    story.respond(0, final=False, B="b1")
    assert story.steps == [0, 1, 1]
    second = story.running[2]
    story.running.remove(second)
    story._take(story.run.responded(second, {"C": "c1"}, True))
    assert story.answers == [{"C": "c1"}]
    story.end(0)
    assert not story.run.is_done
    story.respond(1, C="c0")
    assert story.answers == [{"C": "c1"}, {"C": "c0"}]
    assert story.run.is_done
    assert not story.run.is_deadlocked


def test_no_response_makes_no_pass() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0]).run(["C"]), A="a")
    story.end(0)
    assert (story.answers, story.run.is_done, story.run.is_deadlocked) == ([], True, False)


def test_the_last_step_may_be_decoupled() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[1]).run(["C"]), A="a")
    story.respond(0, B="b")
    story.respond(1, final=False, C="c0")
    story.respond(1, C="c1")
    assert story.answers == [{"C": "c0"}, {"C": "c1"}]
    assert story.run.is_done


def test_passes_within_passes() -> None:
    story = Story(plan("A -> B", "B -> C", "B C -> D", decoupled=[0, 1]).run(["C"]), A="a")
    story.respond(0, final=False, B="b0")
    story.respond(0, B="b1")
    assert story.steps == [1, 1]
    for name in ("b0", "b1"):
        assert story.inputs[story.task(1)] == {"b": name}
        story.respond(1, final=False, C=f"c of {name}")
        story.end(1)
    assert story.answers == [{"C": "c of b0"}, {"C": "c of b1"}]
    assert story.run.is_done
    assert not story.run.is_deadlocked


def test_what_does_not_depend_on_the_stream_is_made_once() -> None:
    story = Story(plan("A -> B", "A -> S", "B S -> C", decoupled=[0]).run(["C", "S"]), A="a")
    story.respond(0, final=False, B="b0")
    assert story.steps == [0, 1]
    story.respond(1, S="s")
    assert story.inputs[story.task(2)] == {"b": "b0", "s": "s"}
    story.respond(0, B="b1")
    assert [story.inputs[task]["b"] for task in story.running] == ["b0", "b1"]
    story.respond(2, C="c0")
    story.respond(2, C="c1")
    assert story.answers == [{"C": "c0", "S": "s"}, {"C": "c1", "S": "s"}]


def test_a_long_stream_leaves_nothing_behind() -> None:
    run = plan("A -> B", "B -> C", "C -> D", decoupled=[0]).run(["D"])
    story = Story(run, A="a")
    for _ in range(5):
        story.respond(0, final=False, B="b")
        story.respond(1, C="c")
        story.respond(2, D="d")
        assert run._first.inner == {}
    assert len(story.answers) == 5


def test_a_pass_that_lacks_an_output_answers_without_it() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0]).run(["C"]), A="a")
    story.respond(0, final=False)
    assert story.inputs[story.task(1)] == {"b": None}


def test_a_failure_ends_the_stream_when_it_has_ended() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0]).run(["C"]), A="a")
    story.respond(0, final=False, B="b0")
    story.run.failed(story.running.pop(1), final=True)
    story.respond(0, final=False, B="b1")
    assert story.steps == [0]
    assert not story.run.is_done
    story.end(0)
    assert (story.run.is_done, story.run.is_deadlocked) == (True, False)


@pytest.mark.spec("server:230")
def test_passes_wait_for_their_turn_at_a_step() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0], max_inflight=2).run(["C"]), A="a")
    for index in range(4):
        story.respond(0, final=False, B=f"b{index}")
    assert story.steps == [0, 1, 1]
    story.end(0)
    for index in range(4):
        assert story.inputs[story.task(1)] == {"b": f"b{index}"}
        story.respond(1, C=f"c{index}")
        assert len(story.running) == min(2, 3 - index)
    assert len(story.answers) == 4
    assert story.run.is_done


def test_waiting_passes_are_dropped_after_a_failure() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0], max_inflight=1).run(["C"]), A="a")
    for name in ("b0", "b1"):
        story.respond(0, final=False, B=name)
    story.end(0)
    story.run.failed(story.running.pop(), final=True)
    assert (story.steps, story.run.is_done) == ([], True)


def test_the_decoupled_steps_that_a_tensor_comes_from() -> None:
    steps = [step(text) for text in ("A -> B", "A -> C", "B -> D", "B C -> E", "A -> F")]
    assert origins(steps, [0, 1]) == {"B": {0}, "C": {1}, "D": {0}, "E": {0, 1}, "F": set()}
    assert origins([step("A -> B"), step("B -> C")], [0, 1]) == {"B": {0}, "C": {1}}
    assert origins([step("A C -> B"), step("B -> C")], []) == {"B": set(), "C": set()}


def test_a_pass_in_its_last_step_answers_after_a_failure() -> None:
    story = Story(plan("A -> B", "B -> C", decoupled=[0]).run(["C"]), A="a")
    story.respond(0, final=False, B="b0")
    story.run.failed(story.running.pop(0), final=True)
    story.respond(1, C="c0")
    assert (story.answers, story.run.is_done) == ([{"C": "c0"}], True)


def test_receipts_live_as_long_as_their_passes() -> None:
    class Receipt:
        pass

    run = plan("A -> B", "B -> C", decoupled=[0], max_inflight=1).run(["C"])
    first = run.begin({"A": "a"}).starts[0]
    receipts = [Receipt(), Receipt()]
    alive = [weakref.ref(receipt) for receipt in receipts]
    (task,) = run.responded(first, {"B": "b0"}, False, receipts[0]).starts
    assert run.responded(first, {"B": "b1"}, False, receipts[1]).starts == []
    receipts.clear()
    progress = run.responded(task, {"C": "c0"}, True)
    assert progress.answers[0].receipt is alive[0]()
    (task,) = progress.starts
    del progress
    assert alive[0]() is None
    assert alive[1]() is not None
    run.responded(task, {"C": "c1"}, True)
    del task
    assert alive[1]() is None
