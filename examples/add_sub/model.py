"""add_sub: OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, in numpy."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The host looks the class up by this name; one object serves one model instance."""

    def initialize(self, args):
        """Called once, when the model is loaded. ``args`` maps strings to strings."""
        config = json.loads(args["model_config"])
        self.dtypes = {
            output["name"]: pb_utils.triton_string_to_numpy(output["data_type"]) for output in config["output"]
        }

    def execute(self, requests):
        """Called with one or more requests; answers one response for each, in the same order."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("OUTPUT0", (left + right).astype(self.dtypes["OUTPUT0"])),
                pb_utils.Tensor("OUTPUT1", (left - right).astype(self.dtypes["OUTPUT1"])),
            ]
        )

    def finalize(self):
        """Called once, when the model is unloaded."""
        print("add_sub: cleaning up")
