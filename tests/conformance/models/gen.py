import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def _response(*texts):
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array(texts, np.object_))])


def _error(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.UNAVAILABLE))


def _wait_at(path):
    print(f"waiting at {path}", flush=True)
    with open(path, "rb") as pipe:
        pipe.read()


class TritonPythonModel:
    """Gives ``text_input`` back, and the request's parameters behind it if there are any.

    A decoupled one does so REPEAT times. With the text ``errN`` the response number N is an error instead, with
    ``facts`` its id and the shapes of its inputs come back; before each response but the first, one whose text is a
    path waits until a pipe there is written; with ``flood`` large responses come until the request is cancelled,
    with ``large:N`` one of N bytes.
    """

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests):
        if not self.decoupled:
            return [self.answer(request, 0) for request in requests]
        for request in requests:
            self.stream(request)
        return None

    def stream(self, request):
        sender = request.get_response_sender()
        text, repeat = self.text(request), pb_utils.get_input_tensor_by_name(request, "REPEAT")
        if text == "flood":
            self.flood(request, sender)
        else:
            for number in range(1 if repeat is None else int(repeat.as_numpy()[0])):
                if number and os.path.exists(text):
                    _wait_at(text)
                if request.is_cancelled():
                    print(f"cancelled before response {number}", flush=True)
                    break
                sender.send(self.answer(request, number))
        sender.send(flags=FINAL)

    def flood(self, request, sender):
        text = b"x" * (1 << 20)
        while not request.is_cancelled():
            sender.send(_response(text))
        print("flood cancelled", flush=True)

    def text(self, request):
        return pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().flatten()[0].decode()

    def answer(self, request, number):
        text, parameters = self.text(request), request.parameters()
        if text == f"err{number}":
            return _error("boom")
        if text.startswith("large:"):
            return _response(b"x" * int(text[6:]))
        if text == "facts":
            facts = {tensor.name(): list(tensor.shape()) for tensor in request.inputs()}
            return _response(json.dumps({"id": request.request_id(), "shapes": facts}).encode())
        if text == "numbers":
            return pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("text_output", np.array([b"a"], np.object_)),
                    pb_utils.Tensor("NUMBERS", np.array([[1.5, float("nan")]], np.float32)),
                    pb_utils.Tensor("ONE", np.array([[[7]]], np.int32)),
                    pb_utils.Tensor("NONE", np.zeros([0], np.int32)),
                ]
            )
        if text == "half":
            return pb_utils.InferenceResponse([pb_utils.Tensor("HALF", np.zeros([1], np.float16))])
        if text == "response_parameters":
            return pb_utils.InferenceResponse(
                [pb_utils.Tensor("text_output", np.array([b"a"], np.object_))],
                parameters={"z": True, "Z": 1, 'a "b': "ż", "é": 2},
            )
        return _response(*([text.encode(), parameters.encode()] if parameters != "{}" else [text.encode()]))
