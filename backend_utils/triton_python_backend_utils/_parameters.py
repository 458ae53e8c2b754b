"""Custom parameters of requests and responses: what values they may have."""

from typing import Any, Dict

from triton_python_backend_utils._errors import TritonModelException

__all__ = ["check_parameters"]

_INT64 = 1 << 63


def check_parameters(parameters: Any) -> Dict[str, Any]:
    """The parameters, when they are a dict of str to bool, int or str. Raises :class:`TritonModelException`."""
    if not isinstance(parameters, dict):
        raise TritonModelException(f"Expect parameters to have type <class 'dict'>, got {type(parameters)}")
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException(f"Expect parameters keys to have type str, found type {type(key)}")
        if not isinstance(value, (int, str)):  # bool is an int
            raise TritonModelException(f"Expect parameters values to have type bool/int/str, found type {type(value)}")
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise TritonModelException(f"Parameter '{key}' does not fit a signed 64-bit integer: {value}")
    return dict(parameters)
