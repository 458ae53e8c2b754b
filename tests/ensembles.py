"""Ensembles for tests, told in few words."""

from __future__ import annotations

from pathlib import Path

from rendezvous import tensors

__all__ = ["ensemble", "write_ensemble"]


def ensemble(
    *steps: str, inputs: str = "IN:UINT8", outputs: str = "OUT:UINT8", scheduling: str = "", more: str = ""
) -> str:
    """A ``config.pbtxt`` of steps such as ``"resize: IN=IMAGE -> OUT=SMALL"``: a model, what its tensors are here."""

    def step(text: str) -> str:
        model, _, maps = text.partition(": ")
        fields = [f'model_name: "{model}" model_version: -1']
        for field, part in zip(("input_map", "output_map"), maps.split(" -> "), strict=True):
            for pair in part.split():
                key, _, value = pair.partition("=")
                fields.append(f'{field} {{ key: "{key}" value: "{value}" }}')
        return f"{{ {' '.join(fields)} }}"

    return (
        f'platform: "ensemble"\ninput [ {tensors(inputs)} ]\noutput [ {tensors(outputs)} ]\n'
        f"ensemble_scheduling {{ step [ {', '.join(map(step, steps))} ] {scheduling} }}\n{more}\n"
    )


def write_ensemble(repository: Path, name: str, *steps: str, **options: str) -> Path:
    """Write one into a repository; its folder."""
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(ensemble(*steps, **options))
    return folder
