"""sentiment: a linear model over word counts; its score lies between 0 (bad) and 1 (good)."""

import numpy as np
import triton_python_backend_utils as pb_utils

WEIGHTS = np.array([2, 2, 1, 1, -1, -1, -2, -2], np.float32)


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            features = pb_utils.get_input_tensor_by_name(request, "FEATURES").as_numpy()
            scores = 1 / (1 + np.exp(-(features @ WEIGHTS)))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", scores.reshape(-1, 1))]))
        return responses
