"""What tools/demo runs: the examples add_sub and bls (and pytorch, where torch is installed), served and called.

Exits with 0 when every answer was the expected one and the server ended in good order.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from server_process import ServerFailed, serving
from tritonclient.utils import InferenceServerException

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LEFT = np.array([1, 2, 3, 4], np.float32)
RIGHT = np.array([10, 20, 30, 40], np.float32)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="atoll-demo-") as folder:
        models = build_repository(Path(folder, "models"))
        log = Path(folder, "server.log")
        command = [str(Path(sys.executable).with_name("tritonserver"))]
        print(f"Serving {', '.join(models)} ...")
        try:
            with serving(command, Path(folder, "models"), log) as server:
                print(f"Ready after {server.ready_s:.2f} s, pid {server.process.pid}")
                call_all("HTTP", tritonclient.http, server.http_url, models)
                call_all("gRPC", tritonclient.grpc, server.grpc_url, models)
                stop_s = server.stop()
        except (ServerFailed, InferenceServerException, AssertionError) as failure:
            print(f"\nThe demonstration FAILED: {failure}\n\nThe server's log:\n{log.read_text(errors='replace')}")
            return 1
        code = server.process.returncode
        print(f"\nStopped in {stop_s:.2f} s with exit code {code}")
        return 0 if code == 0 else 1


def build_repository(root: Path) -> list[str]:
    """Lays out a model repository from the examples, as their READMEs do by hand; returns the models' names."""
    models = {"add_sub": "add_sub", "bls_sync": "bls"}
    if importlib.util.find_spec("torch"):
        models["pytorch"] = "pytorch"
    else:
        print("torch is not installed: leaving the pytorch example out")
    for model, example in models.items():
        (root / model / "1").mkdir(parents=True)
        shutil.copy(EXAMPLES / example / "model.py", root / model / "1")
        shutil.copy(EXAMPLES / example / "config.pbtxt", root / model)
    return list(models)


def call_all(title: str, protocol: ModuleType, url: str, models: list[str]) -> None:
    print(f"\n{title} at {url}")
    with protocol.InferenceServerClient(url) as client:
        for model in models:
            if model != "bls_sync":
                show(protocol, client, model)
                show(protocol, client, "bls_sync", calls=model)
        try:
            infer(protocol, client, "bls_sync", calls="nobody")
        except InferenceServerException as error:
            print(f"  bls_sync -> nobody: error: {error.message()}")
        else:
            raise AssertionError("a BLS call of a model that is not served succeeded")


def show(protocol: ModuleType, client: Any, model: str, calls: str = "") -> None:
    result = infer(protocol, client, model, calls)
    total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
    print(f"  {f'{model} -> {calls}' if calls else model}: {LEFT} and {RIGHT}: sum {total}, difference {difference}")
    assert np.array_equal(total, LEFT + RIGHT), "the sum is wrong"
    assert np.array_equal(difference, LEFT - RIGHT), "the difference is wrong"


def infer(protocol: ModuleType, client: Any, model: str, calls: str) -> Any:
    values = {"INPUT0": (LEFT, "FP32"), "INPUT1": (RIGHT, "FP32")}
    if calls:
        values["MODEL_NAME"] = (np.array([calls], np.object_), "BYTES")
    inputs = []
    for name, (value, datatype) in values.items():
        inputs.append(protocol.InferInput(name, value.shape, datatype))
        inputs[-1].set_data_from_numpy(value)
    return client.infer(model, inputs)


if __name__ == "__main__":
    sys.exit(main())
