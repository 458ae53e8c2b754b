"""Calls the model custom_metrics and shows the model's own metrics.

pip install "tritonclient[http]"
python3 examples/custom_metrics/client.py
"""

import argparse
import sys
import urllib.request

import numpy as np
import tritonclient.http as httpclient

NUMBERS = np.array([0.5, 5, 6.5, 50], np.float32)
LABELS = 'model="custom_metrics",version="1"'
EXPECTED_GROWTH = {
    f"example_numbers_seen{{{LABELS}}}": 4,
    f"example_number_count{{{LABELS}}}": 4,
    f"example_number_sum{{{LABELS}}}": 62,
    f'example_number_bucket{{{LABELS},le="1"}}': 1,
    f'example_number_bucket{{{LABELS},le="10"}}': 3,
    f'example_number_bucket{{{LABELS},le="100"}}': 4,
    f'example_number_bucket{{{LABELS},le="+Inf"}}': 4,
}


def read_metrics(url):
    """The lines of the metrics page that are this example's, and the value of each series."""
    with urllib.request.urlopen(f"http://{url}/metrics", timeout=10) as page:
        lines = [line for line in page.read().decode().splitlines() if "example_" in line]
    series = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return lines, {name: float(value) for name, value in series}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    parser.add_argument("--metrics-url", default="localhost:8002", help="host:port of the server's metrics port")
    arguments = parser.parse_args()

    _, before = read_metrics(arguments.metrics_url)
    with httpclient.InferenceServerClient(arguments.url) as client:
        numbers = httpclient.InferInput("NUMBERS", NUMBERS.shape, "FP32").set_data_from_numpy(NUMBERS)
        mean = client.infer("custom_metrics", [numbers]).as_numpy("MEAN")[0]
    lines, after = read_metrics(arguments.metrics_url)

    print(f"The mean of {NUMBERS} is {mean}")
    print("\n".join(lines))
    if after[f"example_last_mean{{{LABELS}}}"] != mean:
        sys.exit("FAIL: the gauge is not the last mean")
    for name, growth in EXPECTED_GROWTH.items():
        if after[name] - before[name] != growth:
            sys.exit(f"FAIL: {name} went from {before[name]} to {after[name]}")
    print("PASS: custom_metrics")


if __name__ == "__main__":
    main()
