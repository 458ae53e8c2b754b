"""Sends two vectors to the model add_sub and checks what comes back.

pip install "tritonclient[http]"
python3 examples/add_sub/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    left, right = np.random.rand(2, 4).astype(np.float32)
    inputs = [httpclient.InferInput("INPUT0", [4], "FP32"), httpclient.InferInput("INPUT1", [4], "FP32")]
    inputs[0].set_data_from_numpy(left)
    inputs[1].set_data_from_numpy(right)

    with httpclient.InferenceServerClient(arguments.url) as client:
        result = client.infer("add_sub", inputs)
    total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")

    print(f"{left} + {right} = {total}")
    print(f"{left} - {right} = {difference}")
    if not (np.allclose(total, left + right) and np.allclose(difference, left - right)):
        sys.exit("FAIL: add_sub returned something else")
    print("PASS: add_sub")


if __name__ == "__main__":
    main()
