"""Calls a model in Python 3.8 and one in Python 3.13, which one server serves side by side.

pip install "tritonclient[http]"
python3 examples/environments/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient

EXPECTED = {"packed": ("3.8.", "the sum of 3 numbers is 6"), "required": ("3.13.", "|        3 |        9 |")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    numbers = np.array([1, 2, 3], np.float32)
    with httpclient.InferenceServerClient(arguments.url) as client:
        for model, (version, line) in EXPECTED.items():
            given = httpclient.InferInput("NUMBERS", numbers.shape, "FP32")
            given.set_data_from_numpy(numbers)
            result = client.infer(model, [given])
            python, numpy, text = (result.as_numpy(name)[0].decode() for name in ("PYTHON", "NUMPY", "TEXT"))
            print(f"{model}: Python {python}, numpy {numpy}\n{text}\n")
            if not python.startswith(version) or line not in text:
                sys.exit(f"FAIL: {model} is not what it should be")
    print("PASS: environments")


if __name__ == "__main__":
    main()
