"""square_int32: answers the number n with n responses of n each; their sum is its square.

The smallest decoupled model: all responses are sent within ``execute``. For 0 there is none but the end.
"""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self.answer(request)

    def answer(self, request):
        sender = request.get_response_sender()
        number = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
        if number < 0:
            error = pb_utils.TritonError(f"{number} is negative", pb_utils.TritonError.INVALID_ARG)
            sender.send(
                pb_utils.InferenceResponse(output_tensors=[], error=error),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
            return
        response = pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("OUT", np.array([number], np.int32))])
        for _ in range(number):
            sender.send(response)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
