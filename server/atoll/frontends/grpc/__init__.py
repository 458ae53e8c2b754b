"""The gRPC frontend: the v2 protocol's GRPCInferenceService and the standard health service."""

from atoll.frontends.grpc.grpcio_transport import GrpcFrontend
from atoll.frontends.grpc.options import GrpcOptions

__all__ = ["GrpcFrontend", "GrpcOptions"]
