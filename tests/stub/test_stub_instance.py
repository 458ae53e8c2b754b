"""The life of one instance and its executions, driven through its channel by a supervisor that lives in the test."""

import threading
from pathlib import Path

import numpy as np
import pytest
from atoll_ipc.wire import Kind
from stub_twin import (
    ECHO,
    LARGE,
    STUB_CHUNKS,
    LoadedModel,
    SupervisorTwin,
    described,
    execute,
    numbers,
    request,
)

pytestmark = pytest.mark.usefixtures("fresh_imports")

# -- its life


def test_a_model_is_loaded_initialized_executed_and_finalized(model: LoadedModel, tmp_path: Path) -> None:
    code = """
    import pathlib
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def initialize(self, args):
            self.log = pathlib.Path(args["model_repository"], "log")
            self.log.write_text("initialize " + args["model_name"])

        def execute(self, requests):
            self.log.write_text(self.log.read_text() + f" execute {len(requests)}")
            return [pb_utils.InferenceResponse() for _ in requests]

        def finalize(self):
            self.log.write_text(self.log.read_text() + " finalize")
    """
    assert model.load(code) is None
    assert model.run(request(numbers(1)), request(numbers(2))) == [[[], None, None]] * 2
    model.finalize()
    assert (tmp_path / "m" / "log").read_text() == "initialize m execute 2 finalize"


@pytest.mark.spec("python_backend:C20")
def test_a_missing_file_fails_the_load(model: LoadedModel, tmp_path: Path) -> None:
    assert model.load(None) == (
        f"Failed to preinitialize Python stub: Python model file not found in '{tmp_path}/m/1/model.py'"
    )


@pytest.mark.spec("python_backend:C34")
def test_an_exception_in_initialize_is_what_the_load_fails_with(model: LoadedModel, tmp_path: Path) -> None:
    error = model.load(
        """
        class TritonPythonModel:
            def initialize(self, args):
                self.open()

            def open(self):
                raise OSError("no such device")

            def finalize(self):
                raise AssertionError("not after a failed initialize")
        """
    )
    path = f"{tmp_path}/m/1/model.py"
    assert error == f"OSError: no such device\n\nAt:\n  {path}(7): open\n  {path}(4): initialize\n"
    assert model.thread is not None
    assert model.thread.join() is None


@pytest.mark.spec("python_backend:C23")
def test_an_exception_at_import_is_what_the_load_fails_with(model: LoadedModel, tmp_path: Path) -> None:
    error = model.load("import no_such_module")
    assert error is not None
    assert error.startswith(
        f"ModuleNotFoundError: No module named 'no_such_module'\n\nAt:\n  {tmp_path}/m/1/model.py(1)"
    )


@pytest.mark.spec("python_backend:C35")
def test_sys_exit_in_initialize_fails_the_load(model: LoadedModel) -> None:
    error = model.load("import sys\nclass TritonPythonModel:\n    def initialize(self, args):\n        sys.exit(0)\n")
    assert error is not None
    assert error.startswith("SystemExit: 0\n")


@pytest.mark.spec("python_backend:C96")
def test_an_exception_in_finalize_is_printed_and_ends_nothing_early(
    model: LoadedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    model.load(ECHO + "    def finalize(self):\n        raise ValueError('late')\n")
    model.finalize()
    assert "Failed to finalize the model: ValueError: late\n" in capfd.readouterr().out


def test_the_end_of_the_channel_ends_the_instance_without_finalize(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(ECHO + "    def finalize(self):\n        print('finalized')\n")
    twin.hang_up()
    assert model.thread is not None
    assert isinstance(model.thread.join(), EOFError)


# -- execute


def test_small_tensors_travel_in_the_message(model: LoadedModel) -> None:
    model.load(ECHO)
    assert model.run(request(numbers(1, 2))) == [[[numbers(1, 2, name="OUT")], None, None]]


def test_large_tensors_travel_in_blocks_and_inputs_are_released_with_the_result(
    model: LoadedModel, twin: SupervisorTwin
) -> None:
    model.load(ECHO.replace(".as_numpy()", ".as_numpy() * 2"))
    block, reference = twin.place(LARGE.tobytes())
    twin.send(execute(1, request(described("IN", reference))))
    _, _, [[[output], error, _]], released, *_ = twin.receive(Kind.RESULT)
    assert error is None
    assert output[:3] == ["OUT", 11, [5000]]
    assert output[3][0] == STUB_CHUNKS
    assert twin.read(output[3]) == (LARGE * 2).tobytes()
    assert released == [list(block.key)]
    assert twin.store.arena.stats().blocks == 1
    twin.send([Kind.FREE, [output[3][:2]]])
    model.finalize()
    assert twin.store.arena.stats().blocks == 0


@pytest.mark.spec("python_backend:C145")
def test_the_model_may_write_into_its_inputs(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                array = requests[0].inputs()[0].as_numpy()
                array += 1
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)])]
        """
    )
    block, reference = twin.place(LARGE.tobytes())
    [[[output], _, _]] = model.run(request(described("IN", reference)))
    assert twin.read(output[3]) == (LARGE + 1).tobytes()
    assert block.chunk.map[block.start : block.start + 20000] == LARGE.tobytes()


def test_the_same_block_in_two_requests_of_a_batch_is_not_shared(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                requests[0].inputs()[0].as_numpy()[:] = 0
                arrays = [request.inputs()[0].as_numpy() for request in requests]
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for array in arrays]
        """
    )
    block, reference = twin.place(LARGE.tobytes())
    twin.send(execute(1, *[request(described("IN", reference))] * 2))
    _, _, results, released, *_ = twin.receive(Kind.RESULT)
    first, second = (twin.read(data) for [[[_, _, _, data], *_], *_] in results)
    assert first == bytes(LARGE.nbytes)
    assert second == LARGE.tobytes()
    assert released == [list(block.key)] * 2


def test_the_same_block_as_two_inputs_of_a_request_is_not_shared(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                left, right = (tensor.as_numpy() for tensor in requests[0].inputs())
                left[:] = 0
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", right)])]
        """
    )
    block, reference = twin.place(LARGE.tobytes())
    twin.send(execute(1, request(described("IN", reference), described("IN2", reference))))
    _, _, [[[output], *_]], released, *_ = twin.receive(Kind.RESULT)
    assert twin.read(output[3]) == LARGE.tobytes()
    assert released == [list(block.key)] * 2


def test_a_tensor_that_is_handed_on_goes_by_reference(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse(r.inputs()) for r in requests]
        """,
        outputs=("IN",),
    )
    _, reference = twin.place(LARGE.tobytes())
    [[[output], _, _]] = model.run(request(described("IN", reference)))
    assert output == described("IN", reference)


@pytest.mark.spec("python_backend:C65")
def test_a_tensor_that_the_model_keeps_stays_valid_and_is_released_later(
    model: LoadedModel, twin: SupervisorTwin
) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            kept = None

            def execute(self, requests):
                previous, self.kept = self.kept, requests[0].inputs()[0].as_numpy()
                total = 0 if previous is None else previous.sum(keepdims=True)
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total + self.kept[:1])])]
        """
    )
    first, one = twin.place(LARGE.tobytes())
    _second, two = twin.place(LARGE.tobytes())
    twin.send(execute(1, request(described("IN", one))))
    assert twin.receive(Kind.RESULT)[3] == []
    twin.send(execute(2, request(described("IN", two))))
    _, _, [[[output], _, _]], released, *_ = twin.receive(Kind.RESULT)
    assert np.frombuffer(output[3], np.float32).tolist() == [LARGE.sum()]
    assert released == [list(first.key)]


def test_an_execution_that_was_sent_ahead_follows_the_current_one(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(ECHO)
    twin.send(*[execute(number, request(numbers(number))) for number in range(1, 4)])
    for number in range(1, 4):
        _, execution_id, responses, *_ = twin.receive(Kind.RESULT)
        assert execution_id == number
        assert responses == [[[numbers(number, name="OUT")], None, None]]


@pytest.mark.spec("python_backend:C56")
@pytest.mark.spec("python_backend:C58")
@pytest.mark.parametrize(
    ("asked", "answered"), [((), ["A", "B"]), (("B",), ["B"]), (("B", "A"), ["A", "B"]), (("NONE",), [])]
)
def test_outputs_that_nobody_asked_for_are_dropped(
    model: LoadedModel, asked: tuple[str, ...], answered: list[str]
) -> None:
    model.load(
        """
        import numpy as np
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                tensors = [pb_utils.Tensor(name, np.zeros(1, np.int8)) for name in ("A", "UNKNOWN", "B")]
                return [pb_utils.InferenceResponse(tensors)]
        """,
        outputs=("A", "B"),
    )
    [[tensors, _, _]] = model.run(request(outputs=asked))
    assert [tensor[0] for tensor in tensors] == answered


@pytest.mark.spec("python_backend:C175")
def test_a_request_shows_what_the_client_sent(model: LoadedModel) -> None:
    model.load(
        """
        import json
        import numpy as np
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                (r,) = requests
                shown = [r.request_id(), r.correlation_id(), r.flags(), r.timeout(), json.loads(r.parameters()),
                         sorted(r.requested_output_names()), r.inputs()[0].name(), r.inputs()[0].shape()]
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(shown)], np.object_))])]
        """
    )
    fields = ["id-5", "seq", 3, 70, {"a": 1.5, "b": True}, [], [numbers(1, 2, 3)], None]
    [[[output], _, _]] = model.run(fields)
    shown = b'["id-5", "seq", 3, 70, {"a": 1.5, "b": true}, ["OUT"], "IN", [3]]'
    assert output == ["OUT", 13, [1], len(shown).to_bytes(4, "little") + shown]


@pytest.mark.spec("python_backend:C53")
@pytest.mark.spec("python_backend:C55")
def test_an_error_of_one_request_leaves_the_others_and_wins_over_outputs(model: LoadedModel) -> None:
    model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                error = pb_utils.TritonError("not this one", pb_utils.TritonError.NOT_FOUND)
                tensor = pb_utils.Tensor("OUT", requests[0].inputs()[0].as_numpy())
                return [
                    pb_utils.InferenceResponse([tensor], parameters={"a": 1}),
                    pb_utils.InferenceResponse([tensor], error=error, parameters={"a": 1}),
                ]
        """
    )
    assert model.run(request(numbers(1)), request(numbers(2))) == [
        [[numbers(1, name="OUT")], None, {"a": 1}],
        [[], [2, "not this one"], None],
    ]


def test_no_other_thread_tells_of_a_block_before_the_answer_that_refers_to_it(
    model: LoadedModel, twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.load(ECHO)
    block, reference = twin.place(LARGE.tobytes())
    end = twin.store.end
    threads = []

    def end_and_tell(key: tuple[int, int]) -> None:
        end(key)
        thread = threading.Thread(target=lambda: twin.channel.send([Kind.RELEASE, twin.store.take_released()]))
        thread.start()
        thread.join(0.1)  # time enough to overtake, if nothing keeps it from it
        threads.append(thread)

    monkeypatch.setattr(twin.store, "end", end_and_tell)
    twin.send(execute(1, request(described("IN", reference))))
    _, _, responses, *_ = twin.receive(Kind.RESULT)
    assert responses == [[[described("OUT", reference)], None, None]]
    for thread in threads:
        thread.join()
    assert block.nbytes >= LARGE.nbytes
