"""bls_decoupled_sync: squares a number by adding up the responses of the decoupled model square_int32."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        call = pb_utils.InferenceRequest(
            model_name="square_int32",
            requested_output_names=["OUT"],
            inputs=[pb_utils.get_input_tensor_by_name(request, "IN")],
        )

        total = np.zeros(1, np.int32)
        # The iterator yields each response when it arrives, and ends after the last one.
        for response in call.exec(decoupled=True):
            if response.has_error():
                return pb_utils.InferenceResponse(output_tensors=[], error=response.error())
            part = pb_utils.get_output_tensor_by_name(response, "OUT")
            if part is not None:  # a model may end its stream with a response that is empty
                total += part.as_numpy()
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("SUM", total)])
