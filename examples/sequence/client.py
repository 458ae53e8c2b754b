"""Sends two sequences of numbers, their parts in turn, to the model sequence, and checks the means.

pip install "tritonclient[http]"
python3 examples/sequence/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient

SEQUENCES = {
    1001: [[1, 2, 3], [4], [5, 6, 7, 8]],
    "a name": [[10], [30, 50], [-5]],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    with httpclient.InferenceServerClient(arguments.url) as client:
        for step in range(3):
            for sequence, parts in SEQUENCES.items():
                mean = send(client, sequence, parts[step], start=step == 0, end=step == 2)
                print(f"sequence {sequence}, {parts[step]}: the mean so far is {mean}")
                expected = np.mean(np.concatenate(parts[: step + 1]))
                if not np.isclose(mean, expected):
                    sys.exit(f"FAIL: the mean is {expected}")

        try:
            send(client, 1001, [9], start=False, end=False)
        except httpclient.InferenceServerException as error:
            print(f"after the end of its sequence a request is refused: {error.message()}")
        else:
            sys.exit("FAIL: a sequence went on after its end")
    print("PASS: sequence")


def send(client, sequence, numbers, start, end):
    given = httpclient.InferInput("INPUT", [1, len(numbers)], "FP32")
    given.set_data_from_numpy(np.array([numbers], np.float32))
    result = client.infer("sequence", [given], sequence_id=sequence, sequence_start=start, sequence_end=end)
    return result.as_numpy("MEAN")[0, 0]


if __name__ == "__main__":
    main()
