"""The cache of environments: each is made once, whoever asks; nothing half-made stays; the longest idle goes first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from atoll.environments.cache import EnvironmentCache, default_directory
from atoll.errors import Code, ServerError

NBYTES = 1 << 20


def make(folder: Path) -> None:
    (folder / "content").write_bytes(os.urandom(NBYTES))


def never(folder: Path) -> None:
    raise AssertionError("it is there already")


@pytest.fixture
def cache(tmp_path: Path):
    cache = EnvironmentCache(tmp_path / "cache", 0)
    yield cache
    cache.close()


def other_server(cache: EnvironmentCache, max_nbytes: int = 0) -> EnvironmentCache:
    return EnvironmentCache(cache.directory, max_nbytes)


def test_what_is_made_once_is_there_for_all(cache: EnvironmentCache) -> None:
    path = cache.obtain("key", "source", make)
    assert path == cache.directory / "key"
    assert (path / "content").stat().st_size == NBYTES
    assert cache.obtain("key", "source", never) == path
    other = other_server(cache)
    assert other.obtain("key", "another source", never) == path
    other.close()
    [found] = cache.environments()
    assert (found.key, found.path, found.source) == ("key", path, "source")
    assert NBYTES <= found.nbytes < NBYTES + 100_000


def test_who_asks_while_it_is_made_waits(cache: EnvironmentCache) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slowly(folder: Path) -> None:
        began.set()
        assert go_on.wait(20)
        make(folder)

    other = other_server(cache)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.obtain, "key", "source", slowly)
        assert began.wait(20)
        others = [pool.submit(asked.obtain, "key", "source", never) for asked in (cache, other)]
        assert cache.environments() == []  # what is half-made is nothing
        go_on.set()
        assert {future.result(20) for future in (first, *others)} == {cache.directory / "key"}
    other.close()


OTHER_PROCESS = """
import sys
from pathlib import Path
from atoll.environments.cache import EnvironmentCache

def make(folder):
    (folder / "half").touch()
    print("making", flush=True)
    sys.stdin.read()
    (folder / "half").rename(folder / "content")

EnvironmentCache(Path(sys.argv[1]), 0).obtain("key", "source", make)
print("obtained", flush=True)
"""


def other_process(cache: EnvironmentCache) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", OTHER_PROCESS, str(cache.directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_processes_make_one_once(cache: EnvironmentCache) -> None:
    with other_process(cache) as first, ThreadPoolExecutor(2) as pool:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == b"making\n"
        with other_process(cache) as second:
            here = pool.submit(cache.obtain, "key", "source", never)
            first.stdin.close()
            assert here.result(20) == cache.directory / "key"
            assert first.stdout.read() == second.communicate(timeout=20)[0] == b"obtained\n"


def test_a_killed_maker_leaves_nothing(cache: EnvironmentCache) -> None:
    for clear in (lambda: cache.prune(0), lambda: cache.obtain("key", "source", make)):
        with other_process(cache) as maker:
            assert maker.stdout is not None
            assert maker.stdout.readline() == b"making\n"
            assert cache.prune(0) == []  # what somebody is making stays
            assert (cache.directory / "key" / "half").exists()
            maker.send_signal(signal.SIGKILL)
        assert cache.environments() == []
        clear()
        assert not (cache.directory / "key" / "half").exists()
    assert (cache.directory / "key" / "content").exists()


WITH_INSTALLER = """
import subprocess, sys
from pathlib import Path
from atoll.environments.cache import EnvironmentCache

def make(folder):
    (folder / "half").touch()
    subprocess.run(["sh", "-c", "echo installing; cat"], close_fds=False)

EnvironmentCache(Path(sys.argv[1]), 0).obtain("key", "source", make)
"""


def test_an_installer_that_outlives_its_server_keeps_the_place(cache: EnvironmentCache) -> None:
    command = [sys.executable, "-c", WITH_INSTALLER, str(cache.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == b"installing\n"
        server.kill()
        server.wait()
        cache.prune(0)
        assert (cache.directory / "key" / "half").exists()  # the installer still writes there
        server.stdin.close()
        assert server.stdout.read() == b""  # it has ended
    cache.obtain("key", "source", make)
    assert not (cache.directory / "key" / "half").exists()


def test_what_cannot_be_made_leaves_nothing(cache: EnvironmentCache) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise ServerError(Code.INVALID_ARG, "no such archive")

    with pytest.raises(ServerError, match="no such archive"):
        cache.obtain("key", "source", fail)
    assert [path.name for path in cache.directory.iterdir()] == ["key.lock"]
    assert (cache.obtain("key", "source", make) / "content").exists()


def test_those_go_first_that_were_not_used_for_longest(cache: EnvironmentCache) -> None:
    server = other_server(cache, max_nbytes=3 * NBYTES + NBYTES // 2)
    for number, key in enumerate("abc"):
        path = server.obtain(key, key, make)
        server.release(path)
        os.utime(cache.directory / f"{key}.json", (number, number))
    server.release(server.obtain("a", "a", never))  # now b is the oldest
    server.obtain("d", "d", make)
    assert [environment.key for environment in cache.environments()] == ["d", "a", "c"]
    assert not (cache.directory / "b").exists()
    server.close()


def test_what_a_server_uses_stays(cache: EnvironmentCache) -> None:
    path = cache.obtain("used", "used", make)
    assert cache.obtain("used", "used", never) == path
    small = other_server(cache, max_nbytes=1)
    small.obtain("new", "new", make)
    assert {environment.key for environment in cache.environments()} == {"used", "new"}
    assert cache.prune(0) == []
    cache.release(path)
    assert cache.prune(0) == []  # two had obtained it
    cache.release(path)
    assert [environment.key for environment in cache.prune(0)] == ["used"]
    small.close()
    assert [environment.key for environment in cache.prune(0)] == ["new"]


def test_prune_leaves_what_there_is_room_for(cache: EnvironmentCache) -> None:
    for number, key in enumerate("abc"):
        cache.release(cache.obtain(key, key, make))
        os.utime(cache.directory / f"{key}.json", (number, number))
    assert [environment.key for environment in cache.prune(2 * NBYTES + NBYTES // 2)] == ["a"]
    (cache.directory / "notes").mkdir()  # somebody else's
    assert [environment.key for environment in cache.prune(0)] == ["b", "c"]
    assert (cache.directory / "notes").exists()


def test_a_damaged_description_is_no_environment(cache: EnvironmentCache) -> None:
    cache.release(cache.obtain("key", "source", make))
    for content in ("", "[", json.dumps({"source": 1})):
        (cache.directory / "key.json").write_text(content)
        assert cache.environments() == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EnvironmentCache(tmp_path / "file", 0)
    with pytest.raises(ServerError, match=r"cannot be kept in .*file: .*env-cache-directory=… names another place"):
        cache.obtain("key", "source", make)


def test_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_directory() == Path("/cache/atoll/environments")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_directory() == Path("/home/somebody/.cache/atoll/environments")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user that the system does not know
    assert default_directory() == Path("/.cache/atoll/environments")
