"""Asks bls_sync to call other models: those that are served, and one that does not exist.

pip install "tritonclient[http]"
python3 examples/bls/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

ABSENT = "undefined_model"


def call(client, model_name, left, right):
    inputs = [
        httpclient.InferInput("MODEL_NAME", [1], "BYTES"),
        httpclient.InferInput("INPUT0", [4], "FP32"),
        httpclient.InferInput("INPUT1", [4], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.array([model_name], dtype=np.object_))
    inputs[1].set_data_from_numpy(left)
    inputs[2].set_data_from_numpy(right)
    return client.infer("bls_sync", inputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()
    left, right = np.random.rand(2, 4).astype(np.float32)

    with httpclient.InferenceServerClient(arguments.url) as client:
        served = ["add_sub"] + [name for name in ("pytorch",) if client.is_model_ready(name)]
        for name in served:
            result = call(client, name, left, right)
            total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
            print(f"{name}: {left} + {right} = {total}")
            print(f"{name}: {left} - {right} = {difference}")
            if not (np.allclose(total, left + right) and np.allclose(difference, left - right)):
                sys.exit(f"FAIL: bls_sync through {name} returned something else")

        try:
            call(client, ABSENT, left, right)
        except InferenceServerException as error:
            print(f"{ABSENT}: {error.message()}")
            if ABSENT not in error.message():
                sys.exit("FAIL: the error does not name the model")
        else:
            sys.exit(f"FAIL: a call of {ABSENT} succeeded")
    print("PASS: bls_sync")


if __name__ == "__main__":
    main()
