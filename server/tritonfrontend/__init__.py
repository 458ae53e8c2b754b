"""Triton's frontends over a server of ``tritonserver``: import-compatible.

A feature that the environment switches off (``TRITON_ENABLE_HTTP=OFF``) is not here, as in a build without it.
"""

import os

from tritonfrontend._api._restricted import Feature, FeatureGroup, RestrictedFeatures
from tritonfrontend._api._tracing import Tracing


def _has(feature: str) -> bool:
    return os.environ.get(f"TRITON_ENABLE_{feature}", "ON").upper() not in ("OFF", "0", "FALSE")


__all__ = ["Feature", "FeatureGroup", "RestrictedFeatures", "Tracing"]

if _has("HTTP"):
    from tritonfrontend._api._kservehttp import KServeHttp

    __all__ += ["KServeHttp"]
if _has("GRPC"):
    from tritonfrontend._api._kservegrpc import KServeGrpc

    __all__ += ["KServeGrpc"]
if _has("METRICS"):
    from tritonfrontend._api._metrics import Metrics

    __all__ += ["Metrics"]
