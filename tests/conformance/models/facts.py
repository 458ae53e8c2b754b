import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Tells what it knows of itself and of each request, as JSON; gives the request's parameters back."""

    def initialize(self, args):
        self.instance = args["model_instance_name"]
        self.version = args["model_version"]

    def execute(self, requests):
        return [self.describe(request) for request in requests]

    def describe(self, request):
        facts = {
            "instance": self.instance,
            "version": self.version,
            "id": request.request_id(),
            "correlation_id": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "outputs": sorted(request.requested_output_names()),
            "parameters": json.loads(request.parameters()),
            "shapes": {tensor.name(): list(tensor.shape()) for tensor in request.inputs()},
        }
        output = pb_utils.Tensor("FACTS", np.array([json.dumps(facts)], np.object_))
        return pb_utils.InferenceResponse([output], parameters=facts["parameters"])
