"""The model `test`: every input comes back as the output of its type. See README.md."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

TYPES = {
    "string": "TYPE_STRING",
    "bool": "TYPE_BOOL",
    "fp16": "TYPE_FP16",
    "fp32": "TYPE_FP32",
    "fp64": "TYPE_FP64",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        for name, datatype in TYPES.items():
            auto_complete_model_config.add_input(
                {"name": f"{name}_input", "data_type": datatype, "dims": [-1, -1], "optional": True}
            )
            auto_complete_model_config.add_output({"name": f"{name}_output", "data_type": datatype, "dims": [-1, -1]})
        auto_complete_model_config.add_output({"name": "output_parameters", "data_type": "TYPE_STRING", "dims": [1]})
        config = auto_complete_model_config.as_dict()
        decoupled = config.get("parameters", {}).get("decoupled", {}).get("string_value") == "True"
        auto_complete_model_config.set_model_transaction_policy({"decoupled": decoupled})
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests):
        responses = [self.respond(request) for request in requests]
        if not self.decoupled:
            return responses
        for request, response in zip(requests, responses):
            sender = request.get_response_sender()
            sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def respond(self, request):
        outputs = [
            pb_utils.Tensor(tensor.name().replace("_input", "_output"), tensor.as_numpy())
            for tensor in request.inputs()
        ]
        outputs.append(pb_utils.Tensor("output_parameters", np.array([request.parameters()], dtype=object)))
        return pb_utils.InferenceResponse(outputs)
