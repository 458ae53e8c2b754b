"""Has bls_async call several models at once.

pip install "tritonclient[http]"
python3 examples/async/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

ABSENT = "undefined_model"


def call(client, model_names, left, right):
    inputs = [
        httpclient.InferInput("MODEL_NAMES", [len(model_names)], "BYTES"),
        httpclient.InferInput("INPUT0", [4], "FP32"),
        httpclient.InferInput("INPUT1", [4], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.array(model_names, dtype=np.object_))
    inputs[1].set_data_from_numpy(left)
    inputs[2].set_data_from_numpy(right)
    return client.infer("bls_async", inputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()
    left, right = np.random.rand(2, 4).astype(np.float32)

    with httpclient.InferenceServerClient(arguments.url) as client:
        model_names = ["add_sub", "pytorch" if client.is_model_ready("pytorch") else "add_sub"]
        result = call(client, model_names, left, right)
        totals, differences = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
        for name, total, difference in zip(model_names, totals, differences):
            print(f"{name}: {left} + {right} = {total}")
            print(f"{name}: {left} - {right} = {difference}")
        if totals.shape != (2, 4) or differences.shape != (2, 4):
            sys.exit("FAIL: bls_async did not return a row for each model")
        if not (np.allclose(totals, left + right) and np.allclose(differences, left - right)):
            sys.exit("FAIL: bls_async returned something else")

        try:
            call(client, ["add_sub", ABSENT], left, right)
        except InferenceServerException as error:
            print(f"{ABSENT}: {error.message()}")
            if ABSENT not in error.message():
                sys.exit("FAIL: the error does not name the model")
        else:
            sys.exit(f"FAIL: a call of {ABSENT} succeeded")
    print("PASS: bls_async")


if __name__ == "__main__":
    main()
