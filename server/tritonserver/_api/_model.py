"""``Model``: one model of a server, and the dictionary of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tritonserver._api._request import InferenceRequest
from tritonserver._api._response import AsyncResponseIterator, ResponseIterator
from tritonserver._c.enums import TRITONSERVER_ModelBatchFlag, TRITONSERVER_ModelTxnPropertyFlag

if TYPE_CHECKING:
    from tritonserver._api._server import Server

__all__ = ["Model", "ModelDictionary"]


class Model:
    """By name and version, -1 for the highest that is ready. It need not exist until it is used.

    A response sets both to those that answered, as the original does.
    """

    def __init__(
        self, server: Server, name: str, version: int = -1, state: str | None = None, reason: str | None = None
    ) -> None:
        self._server = server._running
        self._embedded = self._server.embedded
        self.name = name
        self.version = version
        self.state = state
        self.reason = reason

    def create_request(self, **kwargs: Any) -> InferenceRequest:
        """A request to this model; a ``model`` among the arguments does not count."""
        kwargs.pop("model", None)
        return InferenceRequest(self, **kwargs)

    def infer(
        self, inference_request: InferenceRequest | None = None, raise_on_error: bool = True, **kwargs: Any
    ) -> ResponseIterator:
        """Send a request: the one given, or one made of the other arguments. Raises TritonError when it is refused."""
        return ResponseIterator(inference_request or self.create_request(**kwargs), raise_on_error)

    def async_infer(
        self, inference_request: InferenceRequest | None = None, raise_on_error: bool = True, **kwargs: Any
    ) -> AsyncResponseIterator:
        """The same, for ``async for``."""
        return AsyncResponseIterator(inference_request or self.create_request(**kwargs), raise_on_error)

    def metadata(self) -> dict[str, Any]:
        return _document(self._server.model_metadata(self.name, self.version))

    def ready(self) -> bool:
        return self._server.model_is_ready(self.name, self.version)

    def batch_properties(self) -> TRITONSERVER_ModelBatchFlag:
        return TRITONSERVER_ModelBatchFlag(self._server.model_batch_properties(self.name, self.version)[0])

    def transaction_properties(self) -> TRITONSERVER_ModelTxnPropertyFlag:
        flags, _ = self._server.model_transaction_properties(self.name, self.version)
        return TRITONSERVER_ModelTxnPropertyFlag(flags)

    def statistics(self) -> dict[str, Any]:
        return _document(self._server.model_statistics(self.name, self.version))

    def config(self, config_version: int = 1) -> dict[str, Any]:
        return _document(self._server.model_config(self.name, self.version, config_version))

    def __repr__(self) -> str:
        return str({"name": self.name, "version": self.version, "state": self.state})


class ModelDictionary(dict[tuple[str, int], Model]):
    """Models by name and version; a name alone gives the model without a version."""

    def __init__(self, server: Server, models: dict[tuple[str, int], Model]) -> None:
        super().__init__(models)
        self._api_server = server

    def __getitem__(self, key: tuple[str, int] | str) -> Model:
        if isinstance(key, str):
            if any(name == key for name, _ in self):
                return Model(self._api_server, key)
        elif key in self:
            return super().__getitem__(key)
        raise KeyError(f"Unknown Model: {key}")


def _document(message: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.serialize_to_json())
    return document
