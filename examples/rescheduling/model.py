"""rescheduling: a generative loop. Each call of ``execute`` makes one step of every request, and asks for the rest again.

Its steps are those of the Collatz sequence: halve an even number, else take three times the number and one, until it is 1.
How many steps a request takes is known only at its end, as with the tokens of a language model.
"""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.numbers = {}
        """The number each request has come to, by its correlation id. The server gives each request an id of its own."""

    def execute(self, requests):
        # Requests that began at different times share the batch; one that ends makes room for a new one at once.
        for request in requests:
            self.step(request)

    def step(self, request):
        key, sender = request.correlation_id(), request.get_response_sender()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            number = int(pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0, 0])
        else:
            number = self.numbers.pop(key)
            number = 3 * number + 1 if number % 2 else number // 2

        if number < 1 or request.is_cancelled():
            error = pb_utils.TritonError(f"{number} is not positive", pb_utils.TritonError.INVALID_ARG)
            if request.is_cancelled():
                error = pb_utils.TritonError("nobody listens any more", pb_utils.TritonError.CANCELLED)
            sender.send(
                pb_utils.InferenceResponse(output_tensors=[], error=error),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
            return

        response = pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("NUMBER", np.array([[number]], np.int64))])
        if number == 1:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            sender.send(response)
            self.numbers[key] = number
            # Not done: the same request comes again, in a later call of execute.
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
