"""Has the model rescheduling generate several sequences of numbers at the same time.

pip install "tritonclient[grpc]"
python3 examples/rescheduling/client.py
"""

import argparse
import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient

EXPECTED = {
    6: [6, 3, 10, 5, 16, 8, 4, 2, 1],
    1: [1],
    8: [8, 4, 2, 1],
    7: [7, 22, 11, 34, 17, 52, 26, 13, 40, 20, 10, 5, 16, 8, 4, 2, 1],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8001", help="host:port of the server's gRPC port")
    arguments = parser.parse_args()

    generated = {start: [] for start in EXPECTED}
    arrived = queue.Queue()
    with grpcclient.InferenceServerClient(arguments.url) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        for start in EXPECTED:
            # A plain request: that the model sees it many times is not the client's business.
            given = grpcclient.InferInput("START", [1, 1], "INT64").set_data_from_numpy(np.array([[start]], np.int64))
            client.async_stream_infer("rescheduling", [given], request_id=str(start))

        while any(numbers[-1:] != [1] for numbers in generated.values()):
            result, error = arrived.get(timeout=30)
            if error is not None:
                sys.exit(f"FAIL: {error}")
            number = int(result.as_numpy("NUMBER")[0, 0])
            generated[int(result.get_response().id)].append(number)

    for start, numbers in generated.items():
        print(f"{start}: {numbers}")
    if generated != EXPECTED:
        sys.exit("FAIL: rescheduling returned something else")
    print("PASS: rescheduling")


if __name__ == "__main__":
    main()
