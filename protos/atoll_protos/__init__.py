"""The protobuf messages of the v2 protocol, of the model configuration and of gRPC's health protocol.

They live in a descriptor pool of their own: ``tritonclient.grpc`` registers the same names in the default pool, and a
process may import both, in either order. ``descriptors.binpb`` is compiled from the ``.proto`` files here by
``tools/protos``; no generated Python is kept, so that one wheel works with every protobuf runtime from 4.25 on.

``messages`` holds every top-level message class and enum by name: ``messages.ModelInferRequest()``,
``messages.DataType.Value("TYPE_FP32")``; nested ones hang on their parents.
"""

from importlib.resources import files
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

__all__ = ["messages", "pool"]


def _load(pool: DescriptorPool) -> dict[str, Any]:
    """Fill the pool and return what its files declare at their top level."""
    declared: dict[str, Any] = {}
    # Imports stand before the files that import them, which the pool requires.
    serialized = files(__name__).joinpath("descriptors.binpb").read_bytes()
    for file_proto in descriptor_pb2.FileDescriptorSet.FromString(serialized).file:
        pool.AddSerializedFile(file_proto.SerializeToString())
        file = pool.FindFileByName(file_proto.name)
        for name, message in file.message_types_by_name.items():
            declared[name] = message_factory.GetMessageClass(message)
        for name, enum in file.enum_types_by_name.items():
            declared[name] = EnumTypeWrapper(enum)
    return declared


pool = DescriptorPool()
messages = SimpleNamespace(**_load(pool))
