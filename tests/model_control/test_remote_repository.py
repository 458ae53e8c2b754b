"""Models in an S3 bucket: a server of moto in this process stands in for the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from calling import wait_until
from controlling import answering, control, entries, is_ready, json_config, load, state, unload, word_of
from hammering import hammering
from moto.server import ThreadedMotoServer
from serving import serve

CONFIG = (
    'backend: "python" input [ { name: "IN" data_type: TYPE_STRING dims: [ -1 ] } ] '
    'output [ { name: "OUT" data_type: TYPE_STRING dims: [ -1 ] } ] instance_group [ { kind: KIND_CPU } ]'
)


class Bucket:
    """A bucket with models under ``models/``."""

    def __init__(self, endpoint: str, name: str) -> None:
        self._client: Any = boto3.client("s3", endpoint_url=endpoint)
        self._name = name
        self._client.create_bucket(Bucket=name)
        self.url = f"s3://{name}/models"

    def write(self, key: str, text: str) -> None:
        self._client.put_object(Bucket=self._name, Key=f"models/{key}", Body=text.encode())

    def write_model(self, name: str, word: str) -> None:
        self.write(f"{name}/config.pbtxt", CONFIG)
        self.write(f"{name}/1/model.py", answering(word))

    def remove_model(self, name: str) -> None:
        for key in ("config.pbtxt", "1/model.py"):
            self._client.delete_object(Bucket=self._name, Key=f"models/{name}/{key}")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(endpoint, request.node.name.replace("_", "-")[:60].rstrip("-"))


def test_models_in_a_bucket_are_polled(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bucket.write_model("m", "word 0")
    bucket.write_model("going", "going")
    with serve(bucket.url, "--model-control-mode=poll", "--repository-poll-secs=1") as served:
        assert word_of(served, "m") == "word 0"
        with hammering(served, "m") as hammer:
            for turn in (1, 2):
                bucket.write("m/1/model.py", answering(f"word {turn}"))
                hammer.wait_for_answers(f"word {turn}")
        bucket.remove_model("going")
        served.wait_for_log("successfully unloaded 'going' version 1")
        bucket.write_model("new", "new")
        wait_until(lambda: is_ready(served, "new") and word_of(served, "new") == "new", "the new model is served")
        assert f"| model_repository_path[0]         | {bucket.url}" in served.log
        assert len(list(tmp_path.glob("atoll_repository_*"))) == 1
        assert served.stop() == 0
    assert list(tmp_path.glob("atoll_repository_*")) == []
    assert "Unclosed" not in served.log


def test_models_in_a_bucket_are_loaded_by_name(
    bucket: Bucket, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket.write_model("m", "first")
    bucket.write_model("other", "other")
    # The way of the original to name an endpoint.
    url = bucket.url.replace("s3://", f"s3://{endpoint}/")
    with serve(url, "--model-control-mode=explicit", "--load-model=m") as served:
        assert entries(served, "other") == [{"name": "other"}]
        assert word_of(served, "m") == "first"
        pid = served.stubs()["m_0_0"]
        load(served, "m")
        assert served.stubs()["m_0_0"] == pid
        bucket.write("m/1/model.py", "def broken(:")
        assert control(served, "m", "load")[0] == 400
        assert word_of(served, "m") == "first"
        bucket.write("m/1/model.py", answering("second"))
        load(served, "m")
        assert word_of(served, "m") == "second"
        bucket.write("late/1/model.py", answering("late"))
        load(served, "late", json_config())
        assert word_of(served, "late") == "late"
        unload(served, "m")
        served.wait_for_log("successfully unloaded 'm' version 1", times=2)
        bucket.remove_model("m")
        assert control(served, "m", "load") == (
            500,
            {"error": "failed to load 'm', failed to poll from model repository"},
        )
        assert state(served, "late") == "READY"
        assert entries(served, "other") == [{"name": "other"}]
    assert list(tmp_path.glob("atoll_repository_*")) == []


@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_a_bucket_that_is_not_there_ends_the_start(endpoint: str, mode: str) -> None:
    with serve("s3://nowhere/models", f"--model-control-mode={mode}", expect_start=False) as served:
        assert served.process.wait(30) == 1
    assert "error: creating server: Internal - failed to stat file s3://nowhere/models" in served.log
