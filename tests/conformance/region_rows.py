"""What requests say about clients' regions over either protocol, and refusals. Region ``a`` has 64 bytes."""

from __future__ import annotations

from typing import Any

__all__ = ["OFFSET", "OVERFLOW", "SUM", "TOO_SMALL", "UNKNOWN", "place"]

UNKNOWN = "Unable to find shared memory region:"
OFFSET = "Invalid offset for shared memory region: 'a'"
SUM = "Invalid offset + byte size for shared memory region: 'a'"
OVERFLOW = (
    f"Integer overflow detected: byte_size ({2**64 - 1}) + offset (5) exceeds maximum value ({2**64 - 1}) for region "
    "'a'"
)
TOO_SMALL = (
    "shared memory size specified with the request for output 'OUTPUT0' (8 bytes) should be at least 16 bytes to hold "
    "the results"
)


def place(nbytes: int | None = None, offset: int | None = None, region: Any = "a") -> dict[str, Any]:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": nbytes, "shared_memory_offset": offset}
    return {key: value for key, value in parameters.items() if value is not None}
