"""A model's settings as the rest of the supervisor reads them: plain values, no protobuf.

The way from ``config.pbtxt`` to a :class:`ModelConfig`: ``pbtxt`` parses, ``normalize`` fills in, ``checks`` refuses,
:meth:`ModelConfig.from_message` reads out. ``ModelConfig.json`` is the whole of it, for the API and for ``initialize``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from atoll_ipc import dtypes
from atoll_protos import messages

from atoll.errors import Code, ServerError
from atoll.repository import checks
from atoll.repository.config_json import from_json, to_json
from atoll.repository.normalize import PYTHON, normalize, normalize_scheduling
from atoll.repository.versions import VersionPolicy

__all__ = [
    "DynamicBatching",
    "Host",
    "Instance",
    "InstanceGroup",
    "ModelConfig",
    "QueuePolicy",
    "RateLimiter",
    "TensorSpec",
]

_INVALID_DATATYPE = "<invalid>"
# What the result of auto_complete_config may change.
_COMPLETABLE = (
    "max_batch_size",
    "input",
    "output",
    "dynamic_batching",
    "sequence_batching",
    "ensemble_scheduling",
    "model_transaction_policy",
)


@dataclass(frozen=True, slots=True)
class Host:
    """What of this machine a configuration depends on."""

    gpus: tuple[int, ...] = ()
    """Device ids that may be used."""
    min_compute_capability: float = 6.0


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output. Shapes are without the batch dimension; -1 is a dimension of any size."""

    name: str
    datatype: str
    """Name in the v2 protocol; ``<invalid>`` as long as auto-complete may still bring it."""
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    """The shape that the model sees, where it is another than ``dims``."""
    optional: bool = False
    allow_ragged_batch: bool = False
    label_filename: str = ""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Limits of one priority level; 0 is no limit."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """Settings of the dynamic batcher."""

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def queue_policy(self, level: int) -> QueuePolicy:
        return self.priority_queue_policies.get(level, self.default_queue_policy)


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """What each execution of an instance takes, where the server limits their rate."""

    priority: int = 1
    resources: tuple[tuple[str, int, bool], ...] = ()
    """Names, units, and whether they are global."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance to start. Instances of a group on different GPUs share a name."""

    name: str
    kind: Literal["CPU", "GPU", "MODEL"]
    device_id: int
    passive: bool
    rate_limiter: RateLimiter = RateLimiter()


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances with common settings."""

    name: str
    kind: Literal["CPU", "GPU", "MODEL"]
    count: int
    gpus: tuple[int, ...] = ()
    passive: bool = False
    host_policy: str = ""
    rate_limiter: RateLimiter = RateLimiter()

    @property
    def instances(self) -> list[Instance]:
        """``count`` instances, on each GPU of the group where it has some."""
        return [
            Instance(f"{self.name}_{index}", self.kind, device, self.passive, self.rate_limiter)
            for index in range(self.count)
            for device in self.gpus or (0,)
        ]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model's normalised configuration."""

    name: str
    backend: str
    platform: str
    max_batch_size: int
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    decoupled: bool
    instance_groups: tuple[InstanceGroup, ...]
    dynamic_batching: DynamicBatching | None
    parameters: dict[str, str]
    default_model_filename: str
    version_policy: VersionPolicy
    json: dict[str, Any]
    """The whole configuration as the model configuration API shows it."""

    @classmethod
    def from_message(cls, config: Any) -> "ModelConfig":
        """Read a normalised and checked message."""
        return cls(
            name=config.name,
            backend=config.backend,
            platform=config.platform,
            max_batch_size=config.max_batch_size,
            inputs={tensor.name: _input_spec(tensor) for tensor in config.input},
            outputs={tensor.name: _output_spec(tensor) for tensor in config.output},
            decoupled=config.model_transaction_policy.decoupled,
            instance_groups=tuple(_instance_group(group) for group in config.instance_group),
            dynamic_batching=(
                _dynamic_batching(config.dynamic_batching) if config.HasField("dynamic_batching") else None
            ),
            parameters={key: config.parameters[key].string_value for key in sorted(config.parameters)},
            default_model_filename=config.default_model_filename,
            version_policy=VersionPolicy.from_message(config.version_policy),
            json=to_json(config),
        )

    @classmethod
    def resolve(cls, config: Any, *, name: str, has_model_file: bool, strict: bool, host: Host) -> "ModelConfig":
        """Normalise and check a message as it was read; ``strict`` also asks for inputs and outputs now."""
        normalize(config, name=name, has_model_file=has_model_file, gpus=host.gpus)
        checks.check_config(config, gpus=host.gpus, min_compute_capability=host.min_compute_capability)
        if strict:
            checks.check_tensors(config)
        return cls.from_message(config)

    def complete(self, completed: str | bytes | Mapping[str, Any] | None) -> "ModelConfig":
        """The final configuration, from the result of the model's ``auto_complete_config``; None where it has none.

        Of the result count: the batch size, inputs, outputs, whether the model is decoupled, and a scheduler where the
        configuration names none. The rest is dropped.
        """
        config = from_json(self.json)
        if completed is not None:
            _merge(config, _parse_completed(completed))
            normalize_scheduling(config)
            checks.check_batch_size(config)
            checks.check_scheduling(config)
        checks.check_tensors(config)
        return self if completed is None else ModelConfig.from_message(config)

    def with_instances_of(self, other: "ModelConfig") -> "ModelConfig":
        """This, with the instances and the choice of versions of another."""
        names = ("instance_group", "version_policy")
        return replace(
            self,
            instance_groups=other.instance_groups,
            version_policy=other.version_policy,
            json={**self.json, **{name: value for name, value in other.json.items() if name in names}},
        )

    def with_decoupled(self, decoupled: bool) -> "ModelConfig":
        """The same with a transaction policy that follows from something else: that of an ensemble from its steps."""
        config = from_json(self.json)
        config.model_transaction_policy.decoupled = decoupled
        return ModelConfig.from_message(config)

    def check_loadable(self, backends: Collection[str] = (PYTHON,)) -> None:
        """Refuse what this host cannot run; ``backends`` are those it has besides ensembles."""
        checks.check_loadable(from_json(self.json), backends)

    @property
    def instances(self) -> list[Instance]:
        return [instance for group in self.instance_groups for instance in group.instances]

    @property
    def preserves_ordering(self) -> bool:
        """Whether responses shall leave in the order of the requests."""
        if self.dynamic_batching is not None:
            return self.dynamic_batching.preserve_ordering
        sequences = self.json.get("sequence_batching", {})
        return bool(sequences.get("oldest", {}).get("preserve_ordering", False))

    def metadata(self, versions: Collection[int]) -> dict[str, Any]:
        """The model metadata answer for these versions."""
        return {
            "name": self.name,
            "versions": [str(version) for version in sorted(versions)],
            "platform": self.platform or self.backend,
            "inputs": [self._tensor_metadata(tensor) for tensor in self.inputs.values()],
            "outputs": [self._tensor_metadata(tensor) for tensor in self.outputs.values()],
        }

    def _tensor_metadata(self, tensor: TensorSpec) -> dict[str, Any]:
        batch = [-1] if self.max_batch_size >= 1 else []
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": [*batch, *tensor.dims]}


def _parse_completed(completed: str | bytes | Mapping[str, Any]) -> Any:
    try:
        return from_json(completed, only=_COMPLETABLE)
    except ServerError as error:
        raise ServerError(Code.INTERNAL, f"Failed to parse auto-complete JSON. {error.message}") from error


def _merge(config: Any, completed: Any) -> None:
    config.max_batch_size = completed.max_batch_size
    for tensors in ("input", "output"):
        config.ClearField(tensors)
        getattr(config, tensors).extend(getattr(completed, tensors))
    chosen, wanted = config.WhichOneof("scheduling_choice"), completed.WhichOneof("scheduling_choice")
    if chosen is None and wanted is not None:
        getattr(config, wanted).CopyFrom(getattr(completed, wanted))
    elif wanted is not None and wanted != chosen:
        raise ServerError(
            Code.INVALID_ARG, f"Cannot update scheduling choice from {chosen} to {wanted} when auto-completing."
        )
    if completed.HasField("model_transaction_policy"):
        config.model_transaction_policy.decoupled = completed.model_transaction_policy.decoupled


def _datatype(code: int) -> str:
    return dtypes.BY_CODE[code].name if code in dtypes.BY_CODE else _INVALID_DATATYPE


def _input_spec(tensor: Any) -> TensorSpec:
    return TensorSpec(
        tensor.name,
        _datatype(tensor.data_type),
        tuple(tensor.dims),
        _reshape(tensor),
        optional=tensor.optional,
        allow_ragged_batch=tensor.allow_ragged_batch,
    )


def _output_spec(tensor: Any) -> TensorSpec:
    return TensorSpec(
        tensor.name,
        _datatype(tensor.data_type),
        tuple(tensor.dims),
        _reshape(tensor),
        label_filename=tensor.label_filename,
    )


def _reshape(tensor: Any) -> tuple[int, ...] | None:
    return tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None


def _instance_group(group: Any) -> InstanceGroup:
    kind = messages.ModelInstanceGroup.Kind.Name(group.kind).removeprefix("KIND_")
    return InstanceGroup(
        group.name, kind, group.count, tuple(group.gpus), group.passive, group.host_policy, _rate_limiter(group)
    )


def _rate_limiter(group: Any) -> RateLimiter:
    limiter = group.rate_limiter
    resources = tuple((resource.name, resource.count, getattr(resource, "global")) for resource in limiter.resources)
    return RateLimiter(max(1, limiter.priority), resources)


def _dynamic_batching(batching: Any) -> DynamicBatching:
    policies = batching.priority_queue_policy
    return DynamicBatching(
        tuple(batching.preferred_batch_size),
        batching.max_queue_delay_microseconds,
        batching.preserve_ordering,
        batching.priority_levels,
        batching.default_priority_level,
        _queue_policy(batching.default_queue_policy),
        {level: _queue_policy(policies[level]) for level in sorted(policies)},
    )


def _queue_policy(policy: Any) -> QueuePolicy:
    return QueuePolicy(
        "DELAY" if policy.timeout_action == messages.ModelQueuePolicy.DELAY else "REJECT",
        policy.default_timeout_microseconds,
        policy.allow_timeout_override,
        policy.max_queue_size,
    )
