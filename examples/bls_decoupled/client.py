"""Has bls_decoupled_sync add up what a decoupled model answers.

pip install "tritonclient[http]"
python3 examples/bls_decoupled/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException


def square(client, number):
    given = httpclient.InferInput("IN", [1], "INT32").set_data_from_numpy(np.array([number], np.int32))
    return client.infer("bls_decoupled_sync", [given]).as_numpy("SUM")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    with httpclient.InferenceServerClient(arguments.url) as client:
        for number in (0, 1, 2, 4):
            total = square(client, number)
            print(f"{number} squared is {total}")
            if total != number**2:
                sys.exit("FAIL: bls_decoupled_sync returned something else")

        try:
            square(client, -1)
        except InferenceServerException as error:
            print(f"-1: {error.message()}")
            if "-1 is negative" not in error.message():
                sys.exit("FAIL: the error is not that of the model that was called")
        else:
            sys.exit("FAIL: the square of -1 succeeded")
    print("PASS: bls_decoupled_sync")


if __name__ == "__main__":
    main()
