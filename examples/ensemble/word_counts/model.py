"""word_counts: how often each word of a small vocabulary occurs in a text."""

import re

import numpy as np
import triton_python_backend_utils as pb_utils

VOCABULARY = ["love", "great", "good", "nice", "boring", "bad", "awful", "hate"]


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            counts = np.array([counted(text.decode()) for text in texts.ravel()], np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("COUNTS", counts)]))
        return responses


def counted(text):
    words = re.findall(r"\w+", text.lower())
    return [words.count(word) for word in VOCABULARY]
