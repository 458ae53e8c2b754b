import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Each INPUTn comes back as OUTPUTn, through numpy."""

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(tensor.name().replace("IN", "OUT"), tensor.as_numpy()) for tensor in request.inputs()]
            )
            for request in requests
        ]
