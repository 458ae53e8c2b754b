"""Infer requests and responses of the v2 protocol between bytes and the core's objects; no sockets.

The hot path of the HTTP frontend. A client mostly repeats itself: the JSON part of its binary requests is the same
byte for byte, or differs only in a leading ``"id"``, and so is the JSON of the answers. What follows from such bytes
alone is kept, so that a repeated request costs a dictionary look-up where a first one costs a JSON parse.

One :class:`InferCodec` belongs to one model version and lives as long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import orjson

from atoll.core.regions import Regions
from atoll.frontends.classification import classify
from atoll.frontends.http.answer import JSON, OCTET_STREAM
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.members import invalid
from atoll.frontends.http.plan import InferPlan, plan_document, too_large
from atoll.frontends.http.raw_input import ServedModel, plan_raw
from atoll.frontends.http.tensor_json import tensor_to_json
from atoll.inference import Parameter, Request, Response, Tensor, TensorData, well_formed

__all__ = ["DEFAULT_MAX_INPUT_NBYTES", "InferCodec", "parse_header_length", "to_json"]

DEFAULT_MAX_INPUT_NBYTES = 64 << 20

_MEMO_ENTRIES = 1024
_MEMO_HEADER_NBYTES = 4096
"""A longer JSON part is hardly a repeated one."""
_JOIN_NBYTES = 16384
"""Up to here one copy into one buffer is cheaper than one more buffer to write."""

_LEADING_ID = re.compile(rb'\{[ \n]*"id"[ \n]*:[ \n]*"([ !#-\[\]-~]*)"[ \n]*,[ \n]*')

Buffer = bytes | bytearray | memoryview
Key = TypeVar("Key")
Value = TypeVar("Value")


def parse_header_length(value: bytes, body_nbytes: int) -> int:
    """The bytes of JSON that the ``Inference-Header-Content-Length`` header announces."""
    if value.isdigit():
        nbytes = int(value)
    else:
        text = value.decode("latin-1").strip()
        if re.fullmatch(r"[+-]?[0-9]+", text) is None:
            raise invalid(f"Unable to parse Inference-Header-Content-Length, got: {text}")
        nbytes = int(text)
    if not 0 <= nbytes <= body_nbytes:
        raise invalid(f"inference header size should be in range (0, {body_nbytes}), got: {nbytes}")
    return nbytes


class InferCodec:
    """Decodes the infer requests of one model version and encodes its responses."""

    def __init__(
        self,
        model: ServedModel,
        *,
        max_input_nbytes: int = DEFAULT_MAX_INPUT_NBYTES,
        labels: Mapping[str, Sequence[str]] | None = None,
        regions: Regions | None = None,
    ) -> None:
        """``labels``: of each output that has a label file, its lines. ``regions``: the server's."""
        self.model = model
        self._regions = regions or Regions()
        self._max_input_nbytes = max_input_nbytes
        self._labels = labels or {}
        # By the JSON part and the number of bytes behind it; apart from them those whose JSON continued after an id,
        # by what followed.
        self._plans: dict[tuple[bytes, int], InferPlan] = {}
        self._plans_after_id: dict[tuple[bytes, int], InferPlan] = {}
        # Descriptions of outputs, by name, datatype, bytes of binary data (None: as JSON) and shape.
        self._fragments: dict[tuple[object, ...], bytes] = {}
        self._names = b'"model_name":%b,"model_version":"%d"' % (to_json(model.name), model.version)
        self._plain_opening = b'{%b,"outputs":[' % self._names

    def decode(
        self,
        body: Buffer,
        json_nbytes: int | None,
        take: Callable[[int, int], TensorData] | None,
        respond: Callable[[Response], None],
    ) -> tuple[Request, InferPlan]:
        """The request in ``body``, and the plan that its responses are to be encoded with.

        ``json_nbytes`` is None where the client announced no header length: then all is JSON, or, if empty, a raw
        request. ``take(offset, nbytes)`` gives a part of ``body`` as tensor data; None where a copy will do.
        """
        nbytes = len(body)
        if json_nbytes is None:
            json_nbytes = nbytes
        if json_nbytes:
            plan, request_id = self._plan(body, json_nbytes, nbytes - json_nbytes)
        else:
            plan, request_id = plan_raw(self.model, body, self._max_input_nbytes), ""
        model = self.model
        parameters = plan.parameters
        inputs = []
        for name, datatype, shape, packed, offset, size in plan.inputs:
            data: TensorData
            if packed is None:
                start = json_nbytes + offset
                data = bytes(body[start : start + size]) if take is None else take(start, size)
            elif isinstance(packed, bytes):
                data = packed
            else:
                data = self._regions.data(packed, datatype)
            inputs.append(Tensor(name, datatype, shape, data))
        request = Request(
            model.name,
            inputs,
            respond,
            model_version=model.version,
            id=request_id,
            outputs=plan.outputs,
            parameters=None if parameters is None else dict(parameters),
            correlation_id=plan.correlation_id,
            flags=plan.flags,
            priority=plan.priority,
            timeout_us=plan.timeout_us,
            form=plan.form,
        )
        if plan.regions is not None:
            self._regions.redirect(request, plan.regions)
        return request, plan

    def _plan(self, body: Buffer, json_nbytes: int, tail_nbytes: int) -> tuple[InferPlan, str]:
        """The plan and the request id of a body that begins with JSON."""
        if json_nbytes > _MEMO_HEADER_NBYTES:
            return self._plan_document(body[:json_nbytes], tail_nbytes)
        header = bytes(body[:json_nbytes])
        key = (header, tail_nbytes)
        plan = self._plans.get(key)
        if plan is not None:
            return plan, ""
        leading_id = _LEADING_ID.match(header)
        if leading_id is None:
            plan, request_id = self._plan_document(header, tail_nbytes)
            if not request_id and not plan.holds_data:
                _remember(self._plans, key, plan)
            return plan, request_id
        key = (header[leading_id.end() :], tail_nbytes)
        plan = self._plans_after_id.get(key)
        if plan is None:
            plan, _ = self._plan_document(header, tail_nbytes)
            if not plan.holds_data:
                _remember(self._plans_after_id, key, plan)
        return plan, leading_id[1].decode()

    def _plan_document(self, text: Buffer, tail_nbytes: int) -> tuple[InferPlan, str]:
        if tail_nbytes < 0:
            raise invalid(f"unexpected size for request JSON, expecting {-tail_nbytes} more bytes")
        limit = self._max_input_nbytes
        if len(text) > limit:
            raise too_large(f"request JSON size of {len(text)} bytes exceeds the maximum allowed input size", limit)
        return plan_document(self.model.name, read_json(text), tail_nbytes, limit)

    def encode(self, response: Response, plan: InferPlan) -> tuple[bytes, int | None, list[Buffer]]:
        """A response's content type, the length of its JSON part if binary data follow, and its body in parts."""
        fragments = []
        blobs: list[Buffer] = []
        blobs_nbytes = 0
        for output in response.outputs:
            binary, classes, in_region = plan.forms.get(output.name, plan.default_form)
            if in_region:
                fragments.append(_description(output) + b"}")
                continue
            tensor = self._classified(output, classes) if classes else output
            nbytes = tensor.nbytes if binary else None
            key = (tensor.name, tensor.datatype, nbytes, *tensor.shape)
            fragment = self._fragments.get(key) or self._describe(tensor, nbytes, key)
            if nbytes is None:
                fragment = b"%b%b}" % (fragment, tensor_to_json(tensor.datatype, tensor.buffer()))
            elif nbytes:
                blobs.append(tensor.buffer())
                blobs_nbytes += nbytes
            fragments.append(fragment)
        request_id, parameters = response.request.id, response.parameters
        opening = self._opening(request_id, parameters) if request_id or parameters else self._plain_opening
        head = b"".join((opening, b",".join(fragments), b"]}"))
        if not blobs_nbytes:
            return JSON, None, [head]
        if blobs_nbytes <= _JOIN_NBYTES:
            return OCTET_STREAM, len(head), [b"".join((head, *blobs))]
        return OCTET_STREAM, len(head), [head, *blobs]

    def _opening(self, request_id: str, parameters: Mapping[str, Parameter] | None) -> bytes:
        """What precedes the list of outputs."""
        leading = b'"id":%b,' % to_json(request_id) if request_id else b""
        trailing = b',"parameters":' + to_json(parameters) if parameters else b""
        return b'{%b%b%b,"outputs":[' % (leading, self._names, trailing)

    def _describe(self, tensor: Tensor, nbytes: int | None, key: tuple[object, ...]) -> bytes:
        """The JSON of one output; up to its elements where they follow in JSON."""
        ending = b',"data":' if nbytes is None else b',"parameters":{"binary_data_size":%d}}' % nbytes
        fragment = _description(tensor) + ending
        _remember(self._fragments, key, fragment)
        return fragment

    def _classified(self, output: Tensor, classes: int) -> Tensor:
        return classify(output, classes, self.model.max_batch_size > 0, self._labels.get(output.name, ()))


def _description(tensor: Tensor) -> bytes:
    """An output's JSON object without its end."""
    return b'{"name":%b,"datatype":%b,"shape":[%b]' % (
        to_json(tensor.name),
        to_json(tensor.datatype),
        ",".join(map(str, tensor.shape)).encode(),
    )


def _remember(memo: dict[Key, Value], key: Key, value: Value) -> None:
    """Into a memo that starts anew when full: cheaper than any order of eviction, and as good for what repeats."""
    if len(memo) >= _MEMO_ENTRIES:
        memo.clear()
    memo[key] = value


def to_json(value: Parameter | Mapping[str, Parameter]) -> bytes:
    """Compact JSON; bare words for non-finite numbers."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        text = b"null"
    if b"null" not in text:
        return text
    return well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()
