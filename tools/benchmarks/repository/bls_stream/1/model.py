"""bls_stream: takes COUNT responses of the decoupled model repeat, and returns the nanoseconds that took."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        count = pb_utils.get_input_tensor_by_name(request, "COUNT")
        begin = time.perf_counter_ns()
        stream = pb_utils.InferenceRequest(model_name="repeat", requested_output_names=["INDEX"], inputs=[count]).exec(
            decoupled=True
        )
        seen = 0
        for response in stream:
            if response.has_error():
                raise pb_utils.TritonModelException(response.error().message())
            tensor = pb_utils.get_output_tensor_by_name(response, "INDEX")
            if tensor is not None:
                if tensor.as_numpy()[0] != seen:
                    raise pb_utils.TritonModelException(f"response {seen} is out of order")
                seen += 1
        if seen != count.as_numpy()[0]:
            raise pb_utils.TritonModelException(f"{seen} responses came")
        duration = np.array([time.perf_counter_ns() - begin], np.int64)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("DURATION_NS", duration)])
