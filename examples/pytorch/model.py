"""pytorch: the sum and the difference of two vectors, computed by a PyTorch module."""

import torch
import triton_python_backend_utils as pb_utils


class AddSubNet(torch.nn.Module):
    """A network without weights: (left + right, left - right)."""

    def forward(self, left, right):
        return left + right, left - right


class TritonPythonModel:
    def initialize(self, args):
        self.network = AddSubNet().eval()

    def execute(self, requests):
        with torch.inference_mode():
            return [self.answer(request) for request in requests]

    def answer(self, request):
        left = torch.from_numpy(pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy())
        right = torch.from_numpy(pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy())
        total, difference = self.network(left, right)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("OUTPUT0", total.numpy()),
                pb_utils.Tensor("OUTPUT1", difference.numpy()),
            ]
        )
