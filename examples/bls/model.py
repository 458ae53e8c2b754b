"""bls_sync: passes its vectors on to the model that the request names, and returns what that model answered.

Business Logic Scripting: which model runs is decided by the data of the request, in plain Python.
"""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        # A string tensor arrives as a numpy array of bytes objects.
        model_name = pb_utils.get_input_tensor_by_name(request, "MODEL_NAME").as_numpy()[0].decode()

        call = pb_utils.InferenceRequest(
            model_name=model_name,
            requested_output_names=["OUTPUT0", "OUTPUT1"],
            inputs=[
                pb_utils.get_input_tensor_by_name(request, "INPUT0"),
                pb_utils.get_input_tensor_by_name(request, "INPUT1"),
            ],
        )
        result = call.exec()

        # A failed call comes back as a response that carries an error. Handing it on fails this request only.
        if result.has_error():
            return pb_utils.InferenceResponse(output_tensors=[], error=result.error())
        return pb_utils.InferenceResponse(output_tensors=result.output_tensors())
