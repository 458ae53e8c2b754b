"""A server, its frontends and a client in one file.

python hello.py
"""

from pathlib import Path

import numpy as np
import tritonclient.http as httpclient
import tritonserver
from tritonfrontend import KServeGrpc, KServeHttp, Metrics

MODELS = Path(__file__).parent / "models"


def main() -> None:
    with tritonserver.Server(model_repository=str(MODELS), log_error=True) as server:
        print(server.models())

        # In this process: no socket and no serialization.
        for response in server.model("test").infer(inputs={"string_input": [["hello world!"]]}):
            print(response.outputs["string_output"].to_string_array())

        # Large tensors are views of shared memory, valid as long as they are held.
        (response,) = server.model("test").infer(inputs={"fp32_input": np.ones((1024, 1024), np.float32)})
        print(np.from_dlpack(response.outputs["fp32_output"]).sum())

        # The same models for everybody else. Port 0 is any free one.
        grpc = KServeGrpc(server, KServeGrpc.Options(address="127.0.0.1", port=0))
        metrics = Metrics(server, Metrics.Options(address="127.0.0.1", port=0))
        grpc.start()
        metrics.start()
        http = KServeHttp(server, KServeHttp.Options(address="127.0.0.1", port=0))
        with http:
            client = httpclient.InferenceServerClient(f"127.0.0.1:{http.port}")
            data = np.array(["Roger Roger"], dtype=object)
            tensor = httpclient.InferInput("INPUT0", data.shape, "BYTES")
            tensor.set_data_from_numpy(data)
            print(client.infer("identity", [tensor]).as_numpy("OUTPUT0"))
            client.close()
        metrics.stop()
        grpc.stop()
    print("PASS: embedding")


if __name__ == "__main__":
    main()
