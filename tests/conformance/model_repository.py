"""The model repository that the conformance tests serve: configurations here, model code in ``models/``.

Models that the specification's appendices A and B describe carry the names they have there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["DATATYPES", "GATE_INSTANCES", "VERSIONS", "write_repository"]

DATATYPES = {
    "BOOL": "TYPE_BOOL",
    **{f"{kind}{bits}": f"TYPE_{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)},
    "FP16": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "FP32": "TYPE_FP32",
    "FP64": "TYPE_FP64",
    "BYTES": "TYPE_STRING",
}
GATE_INSTANCES = 3
VERSIONS = (1, 2, 11)

_CODE = Path(__file__).parent / "models"


def write_repository(folder: Path) -> None:
    """Fill an empty folder with every model."""
    pairs = [("INPUT0", "FP32", [2, 2]), ("INPUT1", "INT32", [-1])]
    _write(folder, "two_in", "identity", pairs, max_batch_size=4)
    for datatype in DATATYPES:
        name = "string" if datatype == "BYTES" else datatype.lower()
        _write(folder, f"ident_{name}", "identity", [("INPUT0", datatype, [-1])], max_batch_size=8)
        _write(
            folder, f"pass_{name}", "pass_on", [("TENSOR", datatype, [-1, -1])], outputs=[("TENSOR", datatype, [-1])]
        )
    _write(folder, "nobatch", "identity", [("INPUT0", "FP32", [4])], labels=["cat", "dog", "bird"])
    optional = [("INPUT0", "FP32", [-1]), ("INPUT1", "INT32", [-1]), ("INPUT2", "BYTES", [1])]
    _write(folder, "opt", "identity", optional, max_batch_size=4, optional=("INPUT1", "INPUT2"))
    facts = [("FACTS", "BYTES", [1])]
    _write(folder, "params", "facts", [("INPUT0", "INT32", [1])], outputs=facts)
    _write(folder, "fresh", "facts", [("INPUT0", "INT32", [1])], outputs=facts)
    _write(
        folder,
        "versions",
        "facts",
        [("INPUT0", "INT32", [1])],
        outputs=facts,
        versions=VERSIONS,
        more="version_policy { all {} }",
    )
    _write(folder, "raw_string", "identity", [("INPUT0", "BYTES", [1])], max_batch_size=8)
    _write(folder, "wild", "identity", [("INPUT0", "FP32", [-1, -1])], max_batch_size=8)
    _write(folder, "mixed", "identity", [("INPUT0", "UINT8", [-1]), ("INPUT1", "FP64", [-1])])
    _write(folder, "err", "err", [("INPUT0", "BYTES", [1])], max_batch_size=8)
    _write(folder, "gate", "gate", [("INPUT0", "BYTES", [1])], instances=GATE_INSTANCES)
    # Batches are not sent ahead: what waits for "hold" waits in the queue, however quick the last execution was.
    _write(folder, "hold", "gate", [("INPUT0", "BYTES", [1])], more="dynamic_batching {}")
    _write(folder, "hold_large", "gate", [("INPUT0", "BYTES", [1]), ("INPUT1", "UINT8", [-1])])
    _write(folder, "join", "gate", [("INPUT0", "BYTES", [1])], max_batch_size=8, more="dynamic_batching {}")
    given = [("text_input", "BYTES", [1]), ("REPEAT", "INT32", [1]), ("VEC", "FP32", [2, -1])]
    made = [("text_output", "BYTES", [-1]), ("NUMBERS", "FP32", [1, -1]), ("ONE", "INT32", [1, 1, 1])]
    made += [("NONE", "INT32", [-1]), ("HALF", "FP16", [1])]
    decoupled = "model_transaction_policy { decoupled: true }"
    for name, more in (("gen", ""), ("gend", decoupled)):
        _write(folder, name, "gen", given, outputs=made, optional=("REPEAT", "VEC"), more=more)
    odd = [("id", "BYTES", [1]), ("parameters", "INT32", [1]), ("DEEP", "FP64", [-1, 2, -1]), ("HALF", "FP16", [1])]
    _write(folder, "gen_odd", "facts", odd, outputs=facts, optional=[name for name, _, _ in odd])
    _write(folder, "gen_batch", "identity", [("INPUT0", "INT32", [2])], max_batch_size=3)
    _write(folder, "reshaped", "facts", [("INPUT0", "FP32", [4])], outputs=facts, max_batch_size=4, reshape=[2, 2])
    _write(folder, "reshaped_both", "pass_on", [("TENSOR", "FP32", [4])], max_batch_size=4, reshape=[2, 2])


def _write(
    folder: Path,
    name: str,
    code: str,
    inputs: list[tuple[str, str, list[int]]],
    *,
    outputs: list[tuple[str, str, list[int]]] | None = None,
    max_batch_size: int = 0,
    optional: Iterable[str] = (),
    reshape: list[int] | None = None,
    labels: list[str] | None = None,
    versions: Iterable[int] = (1,),
    instances: int | None = None,
    more: str = "",
) -> None:
    for version in versions:
        (folder / name / str(version)).mkdir(parents=True)
        shutil.copy(_CODE / f"{code}.py", folder / name / str(version) / "model.py")
    extra = "" if reshape is None else f"reshape {{ shape: {reshape} }}"
    lines = [f'backend: "python" max_batch_size: {max_batch_size}', more]
    if instances is not None:
        lines.append(f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]")
    lines += [_tensor("input", tensor, extra + " optional: true" * (tensor[0] in optional)) for tensor in inputs]
    if labels is not None:
        (folder / name / "labels.txt").write_text("\n".join(labels) + "\n")
        extra += ' label_filename: "labels.txt"'
    if outputs is None:
        outputs = [(tensor.replace("IN", "OUT"), datatype, dims) for tensor, datatype, dims in inputs]
    elif reshape is not None:
        extra = ""
    lines += [_tensor("output", tensor, extra) for tensor in outputs]
    (folder / name / "config.pbtxt").write_text("\n".join(lines))


def _tensor(kind: str, tensor: tuple[str, str, list[int]], extra: str) -> str:
    name, datatype, dims = tensor
    return f'{kind} [ {{ name: "{name}" data_type: {DATATYPES[datatype]} dims: {dims} {extra} }} ]'
