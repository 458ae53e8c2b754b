"""Sends images to the model preprocessing: files named on the command line, else two that it draws itself.

pip install "tritonclient[http]" pillow
python3 examples/preprocessing/client.py [FILE...]
"""

import argparse
import io
import pathlib
import sys

import numpy as np
import tritonclient.http as httpclient
from PIL import Image
from tritonclient.utils import InferenceServerException

COLOUR = (200, 100, 50)
EXPECTED = (np.array(COLOUR) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def drawn(image_format, size):
    """The bytes of an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOUR).save(file, image_format)
    return file.getvalue()


def preprocess(client, files):
    given = httpclient.InferInput("FILE", [len(files), 1], "BYTES")
    given.set_data_from_numpy(np.array(files, np.object_).reshape(-1, 1))
    return client.infer("preprocessing", [given]).as_numpy("IMAGE")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000", help="host:port of the server's HTTP port")
    parser.add_argument("files", nargs="*", metavar="FILE", type=pathlib.Path, help="up to 8 images")
    arguments = parser.parse_args()

    with httpclient.InferenceServerClient(arguments.url) as client:
        if arguments.files:
            images = preprocess(client, [file.read_bytes() for file in arguments.files])
            for file, image in zip(arguments.files, images):
                print(f"{file}: {image.dtype} {image.shape}, mean of the channels {image.mean(axis=(1, 2))}")
            return

        images = preprocess(client, [drawn("JPEG", (640, 480)), drawn("PNG", (100, 300))])
        for image_format, image in zip(("JPEG", "PNG"), images):
            print(f"{image_format}: {image.dtype} {image.shape}, mean of the channels {image.mean(axis=(1, 2))}")
            # JPEG keeps colours nearly.
            if image.shape != (3, 224, 224) or not np.allclose(image, EXPECTED.reshape(3, 1, 1), atol=0.05):
                sys.exit("FAIL: preprocessing returned something else")

        try:
            preprocess(client, [b"no image at all"])
        except InferenceServerException as error:
            print(f"text: {error.message()}")
            if "not an image" not in error.message():
                sys.exit("FAIL: the error does not say what is wrong")
        else:
            sys.exit("FAIL: a text was accepted as an image")
    print("PASS: preprocessing")


if __name__ == "__main__":
    main()
