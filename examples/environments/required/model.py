"""Says which Python and which numpy it runs with, and lays out the numbers it is sent with a package of its own."""

import platform

import numpy as np
import triton_python_backend_utils as pb_utils
from tabulate import tabulate


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "NUMBERS").as_numpy()
            text = tabulate({"number": numbers, "square": numbers**2}, headers="keys", tablefmt="github")
            outputs = [("PYTHON", platform.python_version()), ("NUMPY", np.__version__), ("TEXT", text)]
            tensors = [pb_utils.Tensor(name, np.array([value], np.object_)) for name, value in outputs]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
