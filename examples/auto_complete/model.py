"""auto_complete: the model add_sub, which says itself what its configuration file leaves out."""

import triton_python_backend_utils as pb_utils

INPUTS = ["INPUT0", "INPUT1"]
OUTPUTS = ["OUTPUT0", "OUTPUT1"]


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Called once before the model is loaded, without an object of the class; returns the completed configuration.

        What the file does say is not overridden: a tensor that contradicts it is an error and fails the load.
        """
        for name in INPUTS:
            auto_complete_model_config.add_input({"name": name, "data_type": "TYPE_FP32", "dims": [4]})
        for name in OUTPUTS:
            auto_complete_model_config.add_output({"name": name, "data_type": "TYPE_FP32", "dims": [4]})
        auto_complete_model_config.set_max_batch_size(8)
        auto_complete_model_config.set_dynamic_batching()
        return auto_complete_model_config

    def execute(self, requests):
        # With dynamic batching there may be several requests, each with several rows.
        return [self.answer(request) for request in requests]

    def answer(self, request):
        left, right = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("OUTPUT0", left + right), pb_utils.Tensor("OUTPUT1", left - right)]
        )
