"""Has reviews judged by the ensemble review.

pip install "tritonclient[http]"
python3 examples/ensemble/client.py
"""

import argparse
import sys

import numpy as np
import tritonclient.http as httpclient

REVIEWS = {
    "A great film. I love it.": "good",
    "Boring at first, and then awful.": "bad",
    "Good actors, nice music, but I hate the end!": "even",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    arguments = parser.parse_args()

    with httpclient.InferenceServerClient(arguments.url) as client:
        texts = np.array([[review.encode()] for review in REVIEWS], np.object_)
        given = httpclient.InferInput("TEXT", texts.shape, "BYTES").set_data_from_numpy(texts)
        scores = client.infer("review", [given]).as_numpy("SCORE").ravel()
        for review, score in zip(REVIEWS, scores):
            print(f"{score:.2f}  {review}")
        judged = ["even" if abs(score - 0.5) < 0.01 else "good" if score > 0.5 else "bad" for score in scores]
        if judged != list(REVIEWS.values()):
            sys.exit("FAIL: review judged otherwise")

        # The ensemble is counted once for each request, its steps by themselves.
        for name in ("review", "word_counts", "sentiment"):
            statistics = client.get_inference_statistics(name)["model_stats"][0]
            print(f"{name}: {statistics['inference_count']} texts in {statistics['execution_count']} execution(s)")
    print("PASS: ensemble")


if __name__ == "__main__":
    main()
