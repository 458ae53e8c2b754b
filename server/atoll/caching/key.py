"""When two requests are equal: of the same model as it was loaded, with the same inputs, asking for the same outputs.

Neither the id nor the parameters of a request count, as in the original. Other than there, data types, shapes and the
requested outputs do: the first request's response need not be the second's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgpack

from atoll.inference import Request

__all__ = ["request_key"]


def request_key(model: bytes, all_outputs: Collection[str], request: Request) -> bytes:
    """32 bytes. Equal only for equal requests, as far as SHA-256 is collision-free.

    ``model`` stands for the model, ``all_outputs`` for the outputs of a request that names none.
    """
    inputs = sorted(request.inputs, key=lambda tensor: tensor.name)
    description = [
        model,
        sorted(request.outputs or all_outputs),
        [(tensor.name, tensor.datatype, tuple(tensor.shape), tensor.nbytes) for tensor in inputs],
    ]
    digest = hashlib.sha256(msgpack.packb(description, unicode_errors="surrogateescape"))
    for tensor in inputs:
        digest.update(tensor.buffer())
    return digest.digest()
