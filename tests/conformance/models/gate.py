import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Gives its first input back. When the batch's first text is a path, it first waits until a pipe there is written.

    That it waits it says on stdout, so that a test can wait for it in the log.
    """

    def execute(self, requests):
        path = requests[0].inputs()[0].as_numpy().flatten()[0].decode()
        if path.startswith("/"):
            print(f"waiting at {path}", flush=True)
            with open(path, "rb") as pipe:
                pipe.read()
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", request.inputs()[0].as_numpy())])
            for request in requests
        ]
