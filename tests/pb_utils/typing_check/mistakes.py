"""What a type checker finds in a model: each line that ends in ``# wrong`` has a mistake, the others have none."""

import numpy as np
import triton_python_backend_utils as pb_utils

tensor = pb_utils.Tensor("IN", [1, 2])  # wrong
tensor = pb_utils.Tensor("IN", np.zeros(2))
size: int = tensor.shape()  # wrong
response = pb_utils.InferenceResponse(error="text")  # wrong
response = pb_utils.InferenceResponse([tensor])
response.error().message()  # wrong
request = pb_utils.InferenceRequest(inputs=[tensor], requested_output_names=[], model_name="other")
request.exec().cancel()  # wrong
request.exec(decoupled=True).cancel()
pb_utils.MetricFamily("requests", "help", 0)  # wrong
request.get_response_sender().close()  # wrong
pb_utils.Logger.log("text", 3)  # wrong
pb_utils.TritonError("text", 1)  # wrong
pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()  # wrong
