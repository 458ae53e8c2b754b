"""``ModelConfig``: what a model's ``auto_complete_config`` fills in."""

import json
from typing import Any, Dict, FrozenSet, NoReturn

__all__ = ["ModelConfig"]

_OTHER_SCHEDULERS = ("sequence_batching", "ensemble_scheduling")


class ModelConfig:
    """A model's configuration, read from JSON text, that its model may complete but not contradict.

    Every method that sets something raises ValueError where the configuration says otherwise.
    """

    def __init__(self, model_config: str) -> None:
        self._model_config: Dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> Dict[str, Any]:
        """The configuration itself, not a copy. Meant to be read."""
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """The most requests of a batch; overwrites a smaller configured value."""
        configured = self._model_config.get("max_batch_size", 0)
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in auto-complete-config function for model "
                f"'{self._name}' specified max_batch_size {max_batch_size}"
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Batch requests dynamically, with default settings unless configured."""
        for scheduler in _OTHER_SCHEDULERS:
            if scheduler in self._model_config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{scheduler}', but auto-complete-config function "
                    f"for model '{self._name}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._model_config.setdefault("dynamic_batching", {})

    def add_input(self, input: Dict[str, Any]) -> None:
        """An input: ``name``, ``data_type`` (such as ``TYPE_FP32``), ``dims`` (a list), and maybe ``optional``.

        Completes the entry of that name, or becomes one.
        """
        self._add("input", input, frozenset(("name", "data_type", "dims", "optional")))

    def add_output(self, output: Dict[str, Any]) -> None:
        """An output: ``name``, ``data_type`` and ``dims``. Completes the entry of that name, or becomes one."""
        self._add("output", output, frozenset(("name", "data_type", "dims")))

    def set_model_transaction_policy(self, transaction_policy_dict: Dict[str, Any]) -> None:
        """``{"decoupled": True or False}``: whether a request may have any number of responses."""
        if set(transaction_policy_dict) - {"decoupled"}:
            raise ValueError(
                f"model transaction property in auto-complete-config function for model '{self._name}' contains "
                "property other than 'decoupled'."
            )
        policy = self._model_config.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        decoupled = transaction_policy_dict["decoupled"]
        if policy.setdefault("decoupled", decoupled) != decoupled:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{self._name}', which is "
                f"already set to '{policy['decoupled']}'."
            )

    @property
    def _name(self) -> str:
        name: str = self._model_config["name"]
        return name

    def _add(self, kind: str, tensor: Dict[str, Any], allowed: FrozenSet[str]) -> None:
        self._check_properties(kind, tensor, allowed)
        entries = self._model_config.setdefault(kind, [])
        for entry in entries:
            if entry["name"] == tensor["name"]:
                self._complete(kind, entry, tensor)
                return
        entries.append(tensor)

    def _check_properties(self, kind: str, tensor: Dict[str, Any], allowed: FrozenSet[str]) -> None:
        where = f"in auto-complete-config function for model '{self._name}'"
        if set(tensor) - allowed:
            *most, last = [f"'{name}'" for name in ("name", "data_type", "dims", "optional") if name in allowed]
            raise ValueError(
                f"{kind} '{tensor['name']}' {where} contains property other than {', '.join(most)} and {last}."
            )
        if "name" not in tensor:
            raise ValueError(f"{kind} {where} is missing 'name' property.")
        for name in ("data_type", "dims"):
            if name not in tensor:
                raise ValueError(f"{kind} '{tensor['name']}' {where} is missing '{name}' property.")

    def _complete(self, kind: str, entry: Dict[str, Any], tensor: Dict[str, Any]) -> None:
        name = tensor["name"]
        if entry.get("data_type", "TYPE_INVALID") not in ("TYPE_INVALID", tensor["data_type"]):
            raise ValueError(
                f"unable to load model '{self._name}', configuration expects datatype {entry['data_type']} for {kind} "
                f"'{name}', model provides {tensor['data_type']}"
            )
        if entry.get("dims") and entry["dims"] != tensor["dims"]:
            self._contradicts(name, "dims", tensor, entry)
        if "optional" in entry and "optional" in tensor and entry["optional"] != tensor["optional"]:
            self._contradicts(name, "optional", tensor, entry)
        entry.update(tensor)

    def _contradicts(self, name: str, what: str, tensor: Dict[str, Any], entry: Dict[str, Any]) -> NoReturn:
        raise ValueError(
            f"model '{self._name}', tensor '{name}': the model expects {what} {tensor[what]} but the model "
            f"configuration specifies {what} {entry[what]}"
        )
