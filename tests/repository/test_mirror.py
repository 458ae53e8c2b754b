"""Copies of repositories in stores; the store is fsspec's in memory."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from atoll.errors import Code, ServerError
from atoll.repository.mirror import Mirror
from atoll.repository.repositories import Repositories
from atoll.repository.scan import Options
from atoll.repository.stores import is_remote, url_for_fsspec

_numbers = itertools.count()


class Store:
    """A repository in memory."""

    def __init__(self) -> None:
        self.files: Any = fsspec.filesystem("memory")
        self.root = f"/repository{next(_numbers)}"
        self.url = f"memory:/{self.root}"
        self.files.makedirs(self.root)

    def write(self, path: str, text: str = "") -> None:
        self.files.pipe(f"{self.root}/{path}", text.encode())

    def remove(self, path: str) -> None:
        self.files.rm(f"{self.root}/{path}", recursive=True)


@pytest.fixture
def store() -> Store:
    store = Store()
    store.write("m/config.pbtxt", 'backend: "python"')
    store.write("m/1/model.py", "one")
    store.write("m/1/weights", "heavy")
    store.write("n/1/model.py", "n")
    store.write("notes.txt")
    return store


@pytest.fixture
def mirror(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mirror = Mirror(store.url)
    yield mirror
    mirror.close()
    assert list(tmp_path.iterdir()) == []


def copies(mirror: Mirror) -> dict[str, str]:
    """Every file that is seen in the copy, and what is in it."""
    return {
        f"{model.name}/{path.relative_to(model)}": path.read_text()
        for model in mirror.path.iterdir()
        for path in model.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("s3://b/p", True),
        ("gs://b", True),
        ("as://a/c", True),
        ("/models", False),
        ("models", False),
        ("./s3:/x", False),
    ],
)
def test_what_is_remote(path: str, remote: bool) -> None:
    assert is_remote(path) is remote


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("s3://bucket/a/b", ("s3://bucket/a/b", {})),
        ("s3://localhost:4566/bucket/a", ("s3://bucket/a", {"endpoint_url": "http://localhost:4566"})),
        ("s3://https://host.x:1/bucket", ("s3://bucket", {"endpoint_url": "https://host.x:1"})),
        ("gs://bucket/a", ("gs://bucket/a", {})),
        ("as://account/container/a", ("abfs://container/a", {"account_name": "account"})),
        ("as://account.blob.core.windows.net/container", ("abfs://container", {"account_name": "account"})),
    ],
)
def test_urls_of_the_original(url: str, meant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    assert url_for_fsspec(url) == meant
    if url.startswith("as:"):
        monkeypatch.setenv("AZURE_STORAGE_KEY", "secret")
        assert url_for_fsspec(url)[1]["account_key"] == "secret"


def test_a_copy_of_all_models(mirror: Mirror) -> None:
    assert mirror.names() == ["m", "n"]
    assert copies(mirror) == {}
    assert mirror.refresh() == {}
    assert copies(mirror) == {
        "m/config.pbtxt": 'backend: "python"',
        "m/1/model.py": "one",
        "m/1/weights": "heavy",
        "n/1/model.py": "n",
    }


def test_only_what_is_asked_for_is_copied(mirror: Mirror, store: Store) -> None:
    assert mirror.refresh("n") == {}
    assert set(copies(mirror)) == {"n/1/model.py"}
    assert mirror.refresh("absent") == {}
    store.remove("n")
    mirror.refresh("n")
    assert copies(mirror) == {}


def test_only_what_changed_is_fetched(mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.refresh()
    fetched: list[str] = []
    get = store.files.get

    def noting(remote: list[str], local: list[str]) -> None:
        fetched.extend(path.removeprefix(store.root + "/") for path in remote)
        get(remote, local)

    monkeypatch.setattr(store.files, "get", noting)
    before = (mirror.path / "m" / "1" / "weights").stat()
    mirror.refresh()
    assert fetched == []
    store.write("m/1/model.py", "two")
    store.write("m/2/model.py", "version two")
    mirror.refresh()
    assert sorted(fetched) == ["m/1/model.py", "m/2/model.py"]
    assert copies(mirror)["m/1/model.py"] == "two"
    after = (mirror.path / "m" / "1" / "weights").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    store.remove("m/1")
    store.remove("n")
    mirror.refresh()
    assert set(copies(mirror)) == {"m/config.pbtxt", "m/2/model.py"}


@pytest.mark.parametrize("failing", ["m/1/weights", "m/config.pbtxt"])
def test_half_a_model_is_never_seen(
    mirror: Mirror, store: Store, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = store.files.get
    broken = True

    def fragile(remote: list[str], local: list[str]) -> None:
        for one, place in zip(remote, local, strict=True):
            if broken and one.endswith(failing):
                raise OSError("the line was cut")
            get(one, place)

    monkeypatch.setattr(store.files, "get", fragile)
    failures = mirror.refresh()
    assert list(failures) == ["m"]
    assert failures["m"].message == f"failed to read model repository {store.url}: the line was cut"
    assert set(copies(mirror)) == {"n/1/model.py"}
    broken = False
    assert mirror.refresh() == {}
    before = copies(mirror)
    broken = True
    for name in ("m/1/model.py", "m/1/weights", "m/config.pbtxt"):
        store.write(name, "new")
    assert list(mirror.refresh()) == ["m"]
    assert copies(mirror) == before


def test_a_model_that_changes_while_it_is_copied_is_copied_again(
    mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = store.files.get
    uploads = iter(["two"])

    def overtaken(remote: list[str], local: list[str]) -> None:
        get(remote, local)
        text = next(uploads, None)
        if text is not None:
            store.write("n/1/model.py", text)

    monkeypatch.setattr(store.files, "get", overtaken)
    assert mirror.refresh("n") == {}
    assert copies(mirror) == {"n/1/model.py": "two"}
    uploads = map(str, itertools.count())
    store.write("n/1/model.py", "three")
    [error] = mirror.refresh("n").values()
    assert error.message == f"model 'n' changes all the time while it is copied from {store.url}"
    assert copies(mirror) == {"n/1/model.py": "two"}


def test_an_empty_version_directory_is_there(mirror: Mirror, store: Store) -> None:
    store.files.makedirs(f"{store.root}/ensemble/1")
    store.write("ensemble/config.pbtxt", "")
    mirror.refresh()
    assert (mirror.path / "ensemble" / "1").is_dir()


@pytest.mark.spec("server:283")
def test_a_path_that_leads_elsewhere_is_refused(mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    find = store.files.find

    def evil(root: str, **options: Any) -> Any:
        found = find(root, **options)
        return {**found, f"{root}/../../../evil": {"type": "file", "size": 1}} if root.endswith("/m") else found

    monkeypatch.setattr(store.files, "find", evil)
    failures = mirror.refresh()
    assert list(failures) == ["m"]
    assert failures["m"].code is Code.INVALID_ARG
    assert failures["m"].message.endswith("is no path that a model may have")
    assert set(copies(mirror)) == {"n/1/model.py"}


def test_a_repository_that_is_not_there(store: Store) -> None:
    mirror = Mirror(f"{store.url}/absent")
    with pytest.raises(ServerError) as caught:
        mirror.refresh()
    assert (caught.value.code, caught.value.message) == (Code.INTERNAL, f"failed to stat file {store.url}/absent")
    mirror.close()


@pytest.mark.parametrize(
    ("module", "url"), [("fsspec.core", "s3://bucket/models"), ("s3fs", "s3://bucket/models"), ("gcsfs", "gs://b/m")]
)
def test_a_missing_package_is_named(module: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    mirror = Mirror(url)
    with pytest.raises(ServerError) as caught:
        mirror.names()
    mirror.close()
    assert caught.value.code is Code.UNSUPPORTED
    assert caught.value.message.startswith(f"model repository {url} needs a package that is not installed (")
    assert "pip install" in caught.value.message


# -- among other repositories


def test_stores_and_folders_side_by_side(store: Store, tmp_path: Path) -> None:
    (tmp_path / "local" / "1").mkdir(parents=True)
    (tmp_path / "local" / "1" / "model.py").touch()
    repositories = Repositories([store.url, str(tmp_path)], Options())
    repositories.check()
    assert [model.name for model in repositories.listed()] == ["m", "n", "local"]
    look = repositories.look({})
    assert list(look.present) == ["m", "n", "local"]
    known = {found.source.identifier: found.files for found in look.changed}
    assert repositories.look(known).changed == []
    store.write("m/1/weights", "heavier")
    store.remove("n")
    look = repositories.look(known)
    assert [found.source.name for found in look.changed] == ["m"]
    assert list(look.present) == ["m", "local"]
    assert [
        name for name in known["m"].versions if known["m"].versions[name] != look.changed[0].files.versions[name]
    ] == ["1"]
    assert known["m"].config == look.changed[0].files.config
    repositories.close()


def test_a_store_that_does_not_answer_keeps_its_models(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    repositories = Repositories([store.url], Options(), namespacing=True)
    [m, _] = repositories.find("m") + repositories.find("n")
    assert m.source.identifier == f"{store.url}::m"

    def silent(path: str) -> bool:
        raise OSError("no answer")

    monkeypatch.setattr(store.files, "isdir", silent)
    look = repositories.look({})
    assert look.present == {}
    assert [(path, error.code) for path, error in look.failures.items()] == [
        (m.source.listed.repository, Code.UNAVAILABLE)
    ]
    with pytest.raises(ServerError, match="no answer"):
        repositories.check()
    with pytest.raises(ServerError, match="no answer"):
        repositories.find("m")
    assert repositories.listed() == []
    repositories.close()
