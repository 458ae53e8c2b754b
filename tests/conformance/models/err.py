import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Misbehaves as the first input's text asks."""

    def execute(self, requests):
        what, _, argument = requests[0].inputs()[0].as_numpy().flatten()[0].decode().partition(":")
        return getattr(self, what)(requests, argument)

    def crash(self, requests, argument):
        raise Exception(argument)

    def error(self, requests, argument):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError(argument)) for _ in requests]

    def code(self, requests, argument):
        error = pb_utils.TritonError("coded", getattr(pb_utils.TritonError, argument))
        return [pb_utils.InferenceResponse(error=error) for _ in requests]

    def tensor(self, requests, argument):
        output = {
            "name": pb_utils.Tensor("NOBODY_KNOWS", np.zeros([1, 1], np.float32)),
            "dtype": pb_utils.Tensor("OUTPUT0", np.array([[1]], np.int32)),
            "shape": pb_utils.Tensor("OUTPUT0", np.array([b"1", b"2", b"3"], np.object_)),
        }[argument]
        return [pb_utils.InferenceResponse([output]) for _ in requests]

    def value(self, requests, argument):
        return {"none": None, "empty": [], "number": 5, "numbers": [5], "surplus": [self.plain()] * 2}[argument]

    def plain(self):
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([[b"fine"]], np.object_))])

    def fine(self, requests, argument):
        return [self.plain() for _ in requests]
