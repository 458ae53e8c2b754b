"""rescheduling: a generative loop. Each call of ``execute`` makes one step of every request, and asks for it again.

The steps are those of the Collatz sequence: halve an even number, else take three times the number plus one, until it
is 1. How many steps a request takes is known only at its end, as with the tokens of a language model.
"""

import numpy as np
import triton_python_backend_utils as pb_utils

INVALID_ARG, CANCELLED = pb_utils.TritonError.INVALID_ARG, pb_utils.TritonError.CANCELLED


class TritonPythonModel:
    def initialize(self, args):
        # What each request has come to, by its correlation id. The server gives each request an id of its own.
        self.numbers = {}

    def execute(self, requests):
        # They may be at different steps: whoever ends makes room for a new request at once.
        for request in requests:
            self.step(request)

    def step(self, request):
        number = self.next_number(request)
        if number < 1:
            finish(request, error=pb_utils.TritonError(f"{number} is not positive", INVALID_ARG))
        elif request.is_cancelled():
            finish(request, error=pb_utils.TritonError("nobody listens any more", CANCELLED))
        elif number == 1:
            finish(request, output_tensors=[tensor(number)])
        else:
            request.get_response_sender().send(pb_utils.InferenceResponse(output_tensors=[tensor(number)]))
            self.numbers[request.correlation_id()] = number
            # Not done: the same request comes again, in a later call of execute.
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)

    def next_number(self, request):
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            return int(pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0, 0])
        number = self.numbers.pop(request.correlation_id())
        return 3 * number + 1 if number % 2 else number // 2


def finish(request, **response):
    request.get_response_sender().send(
        pb_utils.InferenceResponse(**response), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    )


def tensor(number):
    return pb_utils.Tensor("NUMBER", np.array([[number]], np.int64))
