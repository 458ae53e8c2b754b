"""Many requests at once from coroutines; the program's own event loop stays its own.

python with_asyncio.py
"""

import asyncio
from pathlib import Path

import numpy as np
import tritonserver

MODELS = Path(__file__).parent / "models"


async def ask(server: tritonserver.Server, number: int) -> int:
    async for response in server.model("test").async_infer(inputs={"int64_input": [[number]]}):
        return int(np.from_dlpack(response.outputs["int64_output"])[0, 0])
    raise AssertionError("no response")


async def main() -> None:
    with tritonserver.Server(model_repository=str(MODELS), log_error=True) as server:
        print(sum(await asyncio.gather(*(ask(server, number) for number in range(100)))))
    print("PASS: embedding")


if __name__ == "__main__":
    asyncio.run(main())
