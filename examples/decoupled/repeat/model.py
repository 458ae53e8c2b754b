"""repeat_int32: sends each element of IN back in a response of its own, each after its delay.

A decoupled model answers a request with any number of responses, whenever it likes: here from threads, long after
``execute`` returned.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if not pb_utils.using_decoupled_model_transaction_policy(config):
            raise pb_utils.TritonModelException(f"{args['model_name']} has to be decoupled; see its config.pbtxt")
        self.threads = ThreadPoolExecutor(max_workers=8)

    def execute(self, requests):
        """Returns None: the answers come through the requests' response senders."""
        for request in requests:
            wait_ms = pb_utils.get_input_tensor_by_name(request, "WAIT").as_numpy()[0]
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            delays_ms = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
            sender = request.get_response_sender()
            if len(values) == len(delays_ms):
                self.threads.submit(self.send_all, sender, values, delays_ms)
            else:
                refuse(sender, f"IN has {len(values)} elements, but DELAY has {len(delays_ms)}")
            time.sleep(wait_ms / 1000)

    def send_all(self, sender, values, delays_ms):
        for index, (value, delay_ms) in enumerate(zip(values, delays_ms)):
            time.sleep(delay_ms / 1000)
            if sender.is_cancelled():  # nobody listens any more
                break
            sender.send(
                pb_utils.InferenceResponse(
                    output_tensors=[
                        pb_utils.Tensor("OUT", np.array([value], np.int32)),
                        pb_utils.Tensor("IDX", np.array([index], np.uint32)),
                    ]
                )
            )
        # The final flag ends the request. It is due in any case, here without a response.
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        self.threads.shutdown()


def refuse(sender, message):
    error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
    sender.send(
        pb_utils.InferenceResponse(output_tensors=[], error=error),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )
