"""Reads the streams of responses of repeat_int32 and square_int32.

pip install "tritonclient[grpc]"
python3 examples/decoupled/client.py
"""

import argparse
import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient

VALUES = [4, 2, 0, 1]
DELAYS_MS = [10, 20, 30, 40]
SQUARED = [0, 1, 3]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8001", help="host:port of the server's gRPC port")
    arguments = parser.parse_args()

    with grpcclient.InferenceServerClient(arguments.url) as client:
        arrived = queue.Queue()
        client.start_stream(lambda result, error: arrived.put((result, error)))

        send(client, "repeat_int32", "repeat", IN=np.int32(VALUES), DELAY=np.uint32(DELAYS_MS), WAIT=np.uint32([0]))
        results = read_to_the_end(arrived, {"repeat"})["repeat"]
        for result in results:
            print(f"repeat_int32: response {result.as_numpy('IDX')[0]} is {result.as_numpy('OUT')[0]}")
        if [result.as_numpy("OUT")[0] for result in results] != VALUES:
            sys.exit("FAIL: repeat_int32 returned something else")

        # One stream carries many requests; the id tells whose response it is.
        for number in SQUARED:
            send(client, "square_int32", str(number), IN=np.int32([number]))
        for number, results in read_to_the_end(arrived, set(map(str, SQUARED))).items():
            parts = [int(result.as_numpy("OUT")[0]) for result in results]
            print(f"square_int32: {number} squared is the sum of {parts}")
            if sum(parts) != int(number) ** 2:
                sys.exit("FAIL: square_int32 returned something else")
    print("PASS: decoupled")


def send(client, model_name, request_id, **tensors):
    inputs = []
    for name, array in tensors.items():
        data_type = {"int32": "INT32", "uint32": "UINT32"}[array.dtype.name]
        inputs.append(grpcclient.InferInput(name, array.shape, data_type).set_data_from_numpy(array))
    # Without the empty final response, a client could not see the end of a stream of unknown length.
    client.async_stream_infer(model_name, inputs, request_id=request_id, enable_empty_final_response=True)


def read_to_the_end(arrived, request_ids):
    """The responses with data of each request, when all of them have ended."""
    results = {request_id: [] for request_id in sorted(request_ids)}
    open_ids = set(request_ids)
    while open_ids:
        result, error = arrived.get(timeout=30)
        if error is not None:
            sys.exit(f"FAIL: {error}")
        response = result.get_response()
        if response.outputs:
            results[response.id].append(result)
        if response.parameters["triton_final_response"].bool_param:
            open_ids.remove(response.id)
    return results


if __name__ == "__main__":
    main()
