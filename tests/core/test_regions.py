"""The registry of clients' regions: what may be registered, what requests may refer to, and when a region is gone."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from atoll.core.regions import Regions, RegionSpan
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor
from atoll_ipc.memory import PAGE, Slice
from atoll_ipc.wire import FIRST_REGION_ID, INLINE_NBYTES

SIZE = 4 * PAGE
MAX = 2**64 - 1


@pytest.fixture
def key() -> Iterator[str]:
    """A file in /dev/shm, of bytes that tell where they are."""
    name = f"atoll_test_{uuid.uuid4()}"
    path = f"/dev/shm/{name}"
    with open(path, "wb") as file:
        file.write(bytes(range(256)) * (SIZE // 256))
    yield f"/{name}"
    os.unlink(path)


def refusal(action: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(ServerError) as raised:
        action()
    return raised.value.code, raised.value.message


def on_loop(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))  # type: ignore[arg-type]


def registered(key: str, offset: int = 0, nbytes: int = SIZE, **settings: Any) -> Regions:
    regions = Regions(**settings)

    async def register() -> None:
        regions.register_system("a", key, offset, nbytes)

    on_loop(register)
    return regions


@pytest.mark.spec("server:114")
def test_status_and_unregister(key: str) -> None:
    async def work() -> None:
        regions = Regions()
        assert regions.system_status() == []
        for name in "bca":
            regions.register_system(name, key, ord(name), 8)
        rows = [{"name": name, "key": key, "offset": ord(name), "byte_size": 8} for name in "abc"]
        assert regions.system_status() == rows
        assert regions.system_status("b") == [rows[1]]
        assert regions.cuda_status() == []
        regions.unregister_system("nobody")
        regions.unregister_cuda("a")
        regions.unregister_cuda()
        assert regions.system_status() == rows
        regions.unregister_system("b")
        assert regions.system_status() == [rows[0], rows[2]]
        regions.unregister_system()
        assert regions.system_status() == []

    on_loop(work)


@pytest.mark.spec("server:115")
@pytest.mark.spec("server:117")
@pytest.mark.parametrize(
    ("offset", "nbytes", "why"),
    [
        (0, SIZE + 1, "invalid args"),
        (1, SIZE, "invalid args"),
        (SIZE + 1, 0, "invalid args"),
        (MAX, MAX, "invalid args"),
        (0, MAX, "invalid args"),
        (0, 0, "unable to process address spaceInvalid argument"),
        (SIZE, 0, "unable to process address spaceInvalid argument"),
    ],
)
def test_parts_that_cannot_be_registered(key: str, offset: int, nbytes: int, why: str) -> None:
    text = f"failed to register shared memory region 'z': {why}"
    regions = Regions()
    assert refusal(lambda: regions.register_system("z", key, offset, nbytes)) == (Code.INVALID_ARG, text)
    assert regions.system_status() == []


@pytest.mark.spec("server:115")
def test_a_name_is_taken_once_and_a_file_any_number_of_times(key: str) -> None:
    async def work() -> None:
        regions = Regions()
        regions.register_system("a", key, 0, SIZE)
        regions.register_system("b", key.lstrip("/"), 5, 7)
        taken = (Code.ALREADY_EXISTS, "shared memory region 'a' already in manager")
        assert refusal(lambda: regions.register_system("a", key, 0, SIZE)) == taken
        assert refusal(lambda: regions.register_system("a", key, 0, SIZE + 1)) == taken
        assert refusal(lambda: regions.register_system("a", "/nobody", 0, 1)) == (
            Code.INTERNAL,
            "Unable to open shared memory region: '/nobody'",
        )

    on_loop(work)


@pytest.mark.spec("server:115")
@pytest.mark.parametrize(
    "bad_key",
    [
        "",
        "//",
        "..",
        "/..",
        ".",
        "/../etc/passwd",
        "../etc/hostname",
        "/a/b",
        "a\0b",
        "x" * 300,
        "/etc/passwd",
        "\udcff",
    ],
)
def test_keys_that_lead_nowhere(bad_key: str) -> None:
    text = f"Unable to open shared memory region: '{bad_key}'"
    assert refusal(lambda: Regions().register_system("n", bad_key, 0, 1)) == (Code.INTERNAL, text)


@pytest.mark.spec("server:115")
def test_what_is_no_file_cannot_be_registered(key: str) -> None:
    link, folder, pipe = (f"{key}_{kind}" for kind in ("link", "folder", "pipe"))
    os.symlink("/etc/hostname", f"/dev/shm{link}")
    os.mkdir(f"/dev/shm{folder}")
    os.mkfifo(f"/dev/shm{pipe}")
    try:
        for other in (link, folder, pipe, f"{folder}/file"):
            text = f"Unable to open shared memory region: '{other}'"
            assert refusal(partial(Regions().register_system, "n", other, 0, 1)) == (Code.INTERNAL, text)
    finally:
        os.unlink(f"/dev/shm{link}")
        os.rmdir(f"/dev/shm{folder}")
        os.unlink(f"/dev/shm{pipe}")


@pytest.mark.spec("server:120")
@pytest.mark.parametrize("prefix", ["", "/", "/my_"])
def test_reserved_keys(prefix: str) -> None:
    name = f"{prefix}triton_python_backend_shm_region_1"
    text = (
        f"cannot register shared memory region 'n' with key '{name}' as the key contains the reserved prefix "
        "'triton_python_backend_shm_region_'"
    )
    assert refusal(lambda: Regions().register_system("n", name, 0, 1)) == (Code.INVALID_ARG, text)
    text = "cannot register shared memory region 'n' - invalid shm key '/'"
    assert refusal(lambda: Regions().register_system("n", "/", 0, 1)) == (Code.INVALID_ARG, text)


@pytest.mark.spec("server:121")
def test_where_clients_may_not_share_memory(key: str) -> None:
    regions = Regions(enabled=False)
    text = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    for action in (
        lambda: regions.register_system("a", key, 0, SIZE),
        lambda: regions.register_cuda("a", 0, SIZE),
        lambda: regions.unregister_system("a"),
        lambda: regions.unregister_cuda(),
    ):
        assert refusal(action) == (Code.UNSUPPORTED, text)
    assert regions.system_status() == regions.cuda_status() == []


@pytest.mark.spec("server:122")
def test_cuda_regions_without_a_gpu(key: str) -> None:
    regions = registered(key)
    for name in "ab":
        text = f"failed to register CUDA shared memory region: '{name}', GPUs not supported"
        assert refusal(partial(regions.register_cuda, name, 0, 4)) == (Code.INVALID_ARG, text)
    assert refusal(lambda: regions.cuda_status("a")) == (
        Code.NOT_FOUND,
        "The region named 'a' is registered as system shared memory, not CUDA shared memory",
    )
    assert refusal(lambda: regions.cuda_status("b")) == (
        Code.NOT_FOUND,
        "Unable to find cuda shared memory region: 'b'",
    )
    assert refusal(lambda: regions.system_status("b")) == (
        Code.NOT_FOUND,
        "Unable to find system shared memory region: 'b'",
    )


# -- what requests refer to


@pytest.mark.spec("server:117")
@pytest.mark.parametrize(
    ("offset", "nbytes", "why"),
    [
        (64, 0, "Invalid offset for shared memory region: 'a'"),
        (64, None, "Invalid offset for shared memory region: 'a'"),
        (MAX, MAX, "Invalid offset for shared memory region: 'a'"),
        (0, 65, "Invalid offset + byte size for shared memory region: 'a'"),
        (56, 16, "Invalid offset + byte size for shared memory region: 'a'"),
        (0, MAX, "Invalid offset + byte size for shared memory region: 'a'"),
        (0, None, "Invalid offset + byte size for shared memory region: 'a'"),
        (
            5,
            MAX,
            f"Integer overflow detected: byte_size ({MAX}) + offset (5) exceeds maximum value ({MAX}) for region 'a'",
        ),
    ],
)
def test_bounds(key: str, offset: int, nbytes: int | None, why: str) -> None:
    regions = registered(key, nbytes=64)
    request = Request("m", [], lambda response: None)
    span = RegionSpan("a", offset, nbytes)
    assert refusal(lambda: regions.data(span, "FP32")) == (Code.INVALID_ARG, why)
    assert refusal(lambda: regions.redirect(request, {"OUT": span})) == (Code.INVALID_ARG, why)


@pytest.mark.spec("server:117")
def test_an_unknown_region(key: str) -> None:
    text = "Unable to find shared memory region: 'x'"
    assert refusal(lambda: registered(key).data(RegionSpan("x", 0, 4), "FP32")) == (Code.NOT_FOUND, text)


@pytest.mark.spec("server:116")
def test_large_inputs_go_by_reference_small_ones_and_strings_by_copy(key: str) -> None:
    regions = registered(key, offset=3, nbytes=SIZE - 3)
    small = regions.data(RegionSpan("a", 2, 4), "UINT8")
    assert small == bytes([5, 6, 7, 8])
    strings = regions.data(RegionSpan("a", 0, INLINE_NBYTES + 1), "BYTES")
    assert isinstance(strings, bytes)
    assert strings[:2] == b"\x03\x04"
    large = regions.data(RegionSpan("a", 2, INLINE_NBYTES + 1), "UINT8")
    assert isinstance(large, Slice)
    assert (large.offset, large.nbytes) == (5, INLINE_NBYTES + 1)
    assert large.block.key == (FIRST_REGION_ID, 3)
    assert bytes(large.view()[:2]) == b"\x05\x06"
    assert regions.data(RegionSpan("a", 0, 0), "UINT8") == b""


def test_a_file_that_has_become_shorter_is_an_error(key: str) -> None:
    regions = registered(key)
    os.truncate(f"/dev/shm{key}", PAGE)
    wrong = (Code.INVALID_ARG, "shared memory region 'a' is shorter than when it was registered")
    assert refusal(lambda: regions.data(RegionSpan("a", PAGE - 2, 4), "UINT8")) == wrong
    assert refusal(lambda: regions.data(RegionSpan("a", 2 * PAGE, PAGE), "BYTES")) == wrong
    answered = deliver(regions, RegionSpan("a", PAGE, 4), b"abcd")
    assert answered.error is not None
    assert (answered.error.code, answered.error.message) == wrong
    assert os.path.getsize(f"/dev/shm{key}") == PAGE


def deliver(regions: Regions, span: RegionSpan, data: bytes, final: bool = True) -> Response:
    """What the client is answered when a model's output comes as bytes and shall go into a region."""
    answered: list[Response] = []
    request = Request("m", [], answered.append)
    regions.redirect(request, {"OUT": span})
    outputs = [Tensor("OUT", "UINT8", [len(data)], data), Tensor("OTHER", "UINT8", [2], b"hi")]
    request.respond(Response(request, 1, outputs, final=final))
    [response] = answered
    return response


@pytest.mark.spec("server:116")
def test_outputs_that_no_stub_has_written_are_written_here(key: str) -> None:
    regions = registered(key, offset=100, nbytes=SIZE - 100)
    response = deliver(regions, RegionSpan("a", 50, 10), b"12345678")
    out, other = response.outputs
    assert isinstance(out.data, Slice)
    assert (out.name, out.shape, out.nbytes, bytes(out.buffer())) == ("OUT", [8], 8, b"12345678")
    assert other.data == b"hi"
    with open(f"/dev/shm{key}", "rb") as file:
        assert file.read()[150:160] == b"12345678" + bytes([158, 159])


@pytest.mark.spec("server:118")
@pytest.mark.parametrize("final", [True, False])
def test_an_output_that_is_too_large_is_an_error(key: str, final: bool) -> None:
    response = deliver(registered(key), RegionSpan("a", 0, 8), bytes(16), final)
    assert response.outputs == []
    assert response.final is final
    assert response.error is not None
    assert response.error.code is Code.INTERNAL
    assert response.error.message == (
        "shared memory size specified with the request for output 'OUT' (8 bytes) should be at least 16 bytes to hold "
        "the results"
    )


@pytest.mark.spec("server:119")
def test_a_region_is_gone_when_it_is_unregistered_and_unused(key: str) -> None:
    async def work() -> None:
        gone: asyncio.Queue[list[int]] = asyncio.Queue()
        regions = Regions(on_gone=gone.put_nowait)
        regions.register_system("a", key, 0, SIZE)
        large: Any = regions.data(RegionSpan("a", 0, SIZE), "UINT8")
        request: Any = Request("m", [], lambda response: None)
        regions.redirect(request, {"OUT": RegionSpan("a", 0, SIZE)})
        regions.unregister_system("a")
        regions.register_system("a", key, 0, SIZE)
        assert bytes(large.view()[:2]) == b"\0\1"
        large = None
        await asyncio.sleep(0)
        assert gone.empty()
        request = None
        assert await gone.get() == [FIRST_REGION_ID]
        regions.unregister_system()
        assert await gone.get() == [FIRST_REGION_ID + 1]

    on_loop(work)
    assert not any(key in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
