"""custom_metrics: the mean of some numbers, and three metrics of the model's own on the server's metrics page."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        labels = {"model": args["model_name"], "version": args["model_version"]}

        # A family's series live as long as the object, so it belongs to the model.
        self.families = [
            pb_utils.MetricFamily(
                name="example_numbers_seen",
                description="Numbers received so far",
                kind=pb_utils.MetricFamily.COUNTER,
            ),
            pb_utils.MetricFamily(
                name="example_last_mean",
                description="Mean of the numbers of the last request",
                kind=pb_utils.MetricFamily.GAUGE,
            ),
            pb_utils.MetricFamily(
                name="example_number",
                description="Size of the numbers received",
                kind=pb_utils.MetricFamily.HISTOGRAM,
            ),
        ]
        seen, last_mean, number = self.families
        self.seen = seen.Metric(labels=labels)
        self.last_mean = last_mean.Metric(labels=labels)
        self.number = number.Metric(labels=labels, buckets=[1.0, 10.0, 100.0])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers = pb_utils.get_input_tensor_by_name(request, "NUMBERS").as_numpy()
        mean = numbers.mean()

        self.seen.increment(len(numbers))
        self.last_mean.set(mean)
        for number in numbers:
            self.number.observe(number)
        pb_utils.Logger.log_verbose(f"{self.seen.value():.0f} numbers so far")

        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("MEAN", np.array([mean], np.float32))])
