"""Appendix B.3: ModelStreamInfer with models that are not decoupled."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from clients import Client, described, inputs_of
from grpc_wire import RpcClient, infer_request, two_in
from serving import Served
from waiting import Gate

pytestmark = pytest.mark.usefixtures("nothing_stays")


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, server: Served) -> Served:
    """Both transports answer alike."""
    return server if request.param == "http2" else request.getfixturevalue("grpcio_server")


@pytest.fixture
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


def texts(model: str, what: str, shape: list[int], **fields: Any) -> Any:
    raw = len(what.encode()).to_bytes(4, "little") + what.encode()
    tensor = {"name": "INPUT0", "datatype": "BYTES", "shape": shape}
    return infer_request(model, tensor, raw_input_contents=[raw], **fields)


def err(what: str, **fields: Any) -> Any:
    return texts("err", what, [1, 1], **fields)


def final(message: Any) -> bool | None:
    """What a message says of being the last; None when it says nothing."""
    parameters = message.infer_response.parameters
    return parameters["triton_final_response"].bool_param if "triton_final_response" in parameters else None


@pytest.mark.spec("server:B103")
def test_stream_without_requests_ends_well(rpc: RpcClient) -> None:
    call = rpc.stream([])
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


@pytest.mark.spec("server:B111")
def test_answers_come_in_the_order_of_requests(rpc: RpcClient) -> None:
    ids = [str(number) for number in range(50)]
    call = rpc.stream(two_in(id=id) for id in ids)
    answers = list(call)
    assert call.code() == grpc.StatusCode.OK
    assert [answer.infer_response.id for answer in answers] == ids
    assert {answer.infer_response.model_name for answer in answers} == {"two_in"}
    assert {answer.infer_response.model_version for answer in answers} == {"1"}
    assert all(final(answer) is True and not answer.error_message for answer in answers)
    assert all(len(answer.infer_response.raw_output_contents) == 2 for answer in answers)


@pytest.mark.spec("server:B112")
def test_empty_final_is_for_decoupled_models_only(rpc: RpcClient) -> None:
    [answer] = rpc.stream([two_in(parameters={"triton_enable_empty_final_response": True})])
    assert final(answer) is True


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        pytest.param(
            two_in(id="bad", model="nope"),
            "Request for unknown model: 'nope' is not found",
            marks=pytest.mark.spec("server:B113"),
        ),
        pytest.param(
            two_in(id="bad", model_version="9"),
            "Request for unknown model: 'two_in' version 9 is not found",
            marks=pytest.mark.spec("server:B114"),
        ),
        pytest.param(
            infer_request("two_in", {"name": "INPUT0", "datatype": "FP32", "shape": [1]}, id="bad"),
            "unable to find data for input tensor 'INPUT0' for model 'two_in' in request.",
        ),
        pytest.param(
            two_in(id="bad", parameters={"triton_x": 1}),
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
            "with 'triton_' are allowed: triton_enable_empty_final_response",
            marks=pytest.mark.spec("server:B117"),
        ),
    ],
)
@pytest.mark.parametrize(
    "metadata",
    [(), pytest.param((("triton_grpc_error", "true"),), marks=pytest.mark.spec("server:B121"))],
    ids=["plain", "status codes"],
)
def test_refusal_is_a_message_and_the_stream_goes_on(rpc: RpcClient, request_: Any, error: str, metadata: Any) -> None:
    call = rpc.stream([request_, two_in(id="good")], metadata=metadata)
    refusal, good = call
    assert refusal.error_message == error
    assert refusal.infer_response.id == "bad"
    assert refusal.infer_response.model_name == ""
    assert final(refusal) is None
    assert (good.infer_response.id, good.error_message) == ("good", "")
    assert call.code() == grpc.StatusCode.OK


@pytest.mark.spec("server:B115")
def test_refusal_names_the_request(rpc: RpcClient) -> None:
    bad = infer_request(
        "ident_fp32",
        {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 3]},
        raw_input_contents=[bytes(24)],
        id="bad",
    )
    refusal, good = rpc.stream([bad, two_in(id="ok")])
    assert refusal.error_message.startswith(
        "[request id: bad] unexpected shape for input 'INPUT0' for model 'ident_fp32'"
    )
    assert refusal.infer_response.id == "bad"
    assert good.infer_response.id == "ok"


@pytest.mark.spec("server:B119")
def test_failed_execution_is_a_message(rpc: RpcClient) -> None:
    failed, good = rpc.stream([err("error:myerr", id="1"), two_in(id="2")])
    assert failed.error_message == "myerr"
    response = failed.infer_response
    assert (response.id, response.model_name, response.model_version) == ("1", "err", "")
    assert final(failed) is True
    assert good.infer_response.id == "2"


@pytest.mark.spec("server:B120")
def test_failed_execution_ends_a_stream_whose_client_wants_status_codes(rpc: RpcClient) -> None:
    call = rpc.stream(
        [two_in(id="1"), err("code:NOT_FOUND", id="2"), two_in(id="3")], metadata=(("triton_grpc_error", "true"),)
    )
    assert next(call).infer_response.id == "1"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.NOT_FOUND, "coded")


@pytest.mark.spec("server:B118")
def test_fast_answer_waits_for_the_slow_one_before_it(
    rpc: RpcClient, server: Served, make_gate: Callable[[], Gate]
) -> None:
    gate = make_gate()
    with Client("grpc", server) as client:
        before = client.statistics("two_in")["success"]
        call = rpc.stream([texts("hold", gate.path, [1], id="slow"), two_in(id="fast")])
        gate.wait_for_arrival()
        while client.statistics("two_in")["success"] == before:
            pass  # each look takes its turn with the requests
        gate.open()
    assert [answer.infer_response.id for answer in call] == ["slow", "fast"]


@pytest.mark.spec("server:B122")
def test_client_cancels_its_stream(rpc: RpcClient, make_gate: Callable[[], Gate], settled: Callable[[], None]) -> None:
    gate = make_gate()
    call = rpc.stream([texts("hold", gate.path, [1])] * 3)
    gate.wait_for_arrival()
    call.cancel()
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() == grpc.StatusCode.CANCELLED
    gate.open()
    settled()


def test_large_tensors_in_a_stream(rpc: RpcClient) -> None:
    blobs = [np.full(1 << 20, number, np.uint8).tobytes() for number in range(8)]
    tensor = {"name": "INPUT0", "datatype": "UINT8", "shape": [1, 1 << 20]}
    answers = list(rpc.stream(infer_request("ident_uint8", tensor, raw_input_contents=[blob]) for blob in blobs))
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == blobs


def test_tritonclient_stream(server: Served) -> None:
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    sent = {"INPUT0": np.ones([1, 2, 2], np.float32), "INPUT1": np.array([[5, 6]], np.int32)}
    wrong = {"INPUT0": np.array([[b"error:myerr"]], np.object_)}
    with Client("grpc", server) as client:
        client.raw.start_stream(lambda result, error: arrived.put((result, error)))
        for number in range(10):
            client.raw.async_stream_infer("two_in", inputs_of(tritonclient.grpc, sent), request_id=str(number))
        client.raw.async_stream_infer("err", inputs_of(tritonclient.grpc, wrong), request_id="wrong")
        client.raw.async_stream_infer("two_in", inputs_of(tritonclient.grpc, sent), request_id="last")
        answers = [arrived.get(timeout=20) for _ in range(12)]
        client.raw.stop_stream()
    assert [described(result)["id"] for result, _ in answers[:10]] == list(map(str, range(10)))
    assert [error for _, error in answers[:10]] == [None] * 10
    assert answers[0][0].as_numpy("OUTPUT1").tolist() == [[5, 6]]
    assert "myerr" in str(answers[10][1])
    assert described(answers[11][0])["id"] == "last"
