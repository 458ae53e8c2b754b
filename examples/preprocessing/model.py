"""preprocessing: images as they lie on a disk (JPEG, PNG, ...) become the tensor that an image classifier expects."""

import io

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, ImageOps

SIZE = (224, 224)
# Mean and standard deviation of the channels red, green and blue over ImageNet.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        # A string tensor holds any bytes: one element is one file.
        files = pb_utils.get_input_tensor_by_name(request, "FILE").as_numpy()
        try:
            images = np.stack([normalised(file) for file in files.ravel()])
        except Exception as error:
            # Decoders raise what they like at bytes that are no image. It is to fail this request, not the batch.
            refusal = pb_utils.TritonError(f"not an image: {error}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=refusal)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("IMAGE", images)])


def normalised(file):
    """The image in a file: the middle of it, resized, as a float array of [channel, row, column]."""
    with Image.open(io.BytesIO(file)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    pixels = np.asarray(ImageOps.fit(upright, SIZE), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)
