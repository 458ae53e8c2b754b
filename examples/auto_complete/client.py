"""Shows the configuration that the model auto_complete made for itself, then calls it with a batch.

pip install "tritonclient[http]"
python3 examples/auto_complete/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient

ROWS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    with httpclient.InferenceServerClient(arguments.url) as client:
        config = client.get_model_config("auto_complete")
        for tensor in [*config["input"], *config["output"]]:
            print(f"{tensor['name']}: {tensor['data_type']} {tensor['dims']}")
        print(f"max_batch_size: {config['max_batch_size']}, dynamic batching: {'dynamic_batching' in config}")
        if [tensor["name"] for tensor in config["input"]] != ["INPUT0", "INPUT1"]:
            sys.exit("FAIL: the inputs are not completed")
        if [tensor["name"] for tensor in config["output"]] != ["OUTPUT0", "OUTPUT1"]:
            sys.exit("FAIL: the outputs are not completed")
        if config["max_batch_size"] != 8 or "dynamic_batching" not in config:
            sys.exit("FAIL: batching is not completed")

        left, right = np.random.rand(2, ROWS, 4).astype(np.float32)
        inputs = [
            httpclient.InferInput("INPUT0", left.shape, "FP32").set_data_from_numpy(left),
            httpclient.InferInput("INPUT1", right.shape, "FP32").set_data_from_numpy(right),
        ]
        result = client.infer("auto_complete", inputs)

    total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
    print(f"{ROWS} rows at once:\n{left}\n+\n{right}\n=\n{total}")
    if not (np.allclose(total, left + right) and np.allclose(difference, left - right)):
        sys.exit("FAIL: auto_complete returned something else")
    print("PASS: auto_complete")


if __name__ == "__main__":
    main()
