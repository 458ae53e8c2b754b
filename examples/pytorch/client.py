"""Sends two vectors to the model pytorch and checks what comes back.

pip install "tritonclient[http]"
python3 examples/pytorch/client.py
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
        result = client.infer("pytorch", inputs)
    total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")

    print(f"{left} + {right} = {total}")
    print(f"{left} - {right} = {difference}")
    if not (np.allclose(total, left + right) and np.allclose(difference, left - right)):
        sys.exit("FAIL: pytorch returned something else")
    print("PASS: pytorch")


if __name__ == "__main__":
    main()
