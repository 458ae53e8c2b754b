"""bls_async: asks several models at once, and returns all of their answers.

``execute`` may be a coroutine. While it awaits an answer, other calls of it go on.
"""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils

OUTPUTS = ["OUTPUT0", "OUTPUT1"]


class TritonPythonModel:
    async def execute(self, requests):
        return await asyncio.gather(*(self.answer(request) for request in requests))

    async def answer(self, request):
        model_names = pb_utils.get_input_tensor_by_name(request, "MODEL_NAMES").as_numpy()
        inputs = [pb_utils.get_input_tensor_by_name(request, name) for name in ("INPUT0", "INPUT1")]
        calls = [
            pb_utils.InferenceRequest(model_name=name.decode(), requested_output_names=OUTPUTS, inputs=inputs)
            for name in model_names
        ]

        # All calls are under way before the first answer is there. They come back in the order of the calls.
        results = await asyncio.gather(*(call.async_exec() for call in calls))

        for result in results:
            if result.has_error():
                return pb_utils.InferenceResponse(output_tensors=[], error=result.error())
        return pb_utils.InferenceResponse(output_tensors=[stacked(results, name) for name in OUTPUTS])


def stacked(results, name):
    """A tensor of one row for each result."""
    return pb_utils.Tensor(
        name, np.stack([pb_utils.get_output_tensor_by_name(result, name).as_numpy() for result in results])
    )
