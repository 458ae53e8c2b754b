"""sequence: a model with a memory. It tells the mean of all numbers that a client has sent since its sequence began."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        # How many numbers each sequence had, and what they sum to. All requests of a sequence come to this instance.
        self.counts_and_sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        key = request.correlation_id()
        count, total = (0, 0.0) if flag(request, "START") else self.counts_and_sums[key]

        numbers = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        count, total = count + numbers.size, total + float(numbers.sum())

        if flag(request, "END"):
            self.counts_and_sums.pop(key, None)
        else:
            self.counts_and_sums[key] = (count, total)
        mean = pb_utils.Tensor("MEAN", np.array([[total / max(1, count)]], np.float32))
        return pb_utils.InferenceResponse(output_tensors=[mean])


def flag(request, name):
    """A control tensor: the server adds it to the inputs, as the configuration says."""
    return bool(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0, 0])
