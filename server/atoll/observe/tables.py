"""The tables that the server prints at start-up: backends, models, options."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["agent_table", "backend_table", "model_table", "options_table", "render"]


def render(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in ASCII, as wide as its widest cells; a cell of several lines takes several lines."""
    cells = [[cell.rstrip("\n").split("\n") for cell in row] for row in (header, *rows)]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for number, row in enumerate(cells):
        for index in range(max(map(len, row))):
            parts = (cell[index] if index < len(cell) else "" for cell in row)
            lines.append("|" + "|".join(f" {part:<{width}} " for part, width in zip(parts, widths, strict=True)) + "|")
        if number == 0:
            lines.append(rule)
    lines.append(rule)
    return "\n".join(lines) + "\n"


def agent_table() -> str:
    """The table of repository agents, of which there are none."""
    return render(("Repository Agent", "Path"), ())


def backend_table(path: str, settings: Mapping[str, str]) -> str:
    """The table of backends: the Python one, where it lives and the settings it was given."""
    config = json.dumps({"cmdline": dict(settings)}, separators=(",", ":"), ensure_ascii=False)
    return render(("Backend", "Path", "Config"), [("python", path, config)])


def model_table(index: Iterable[Mapping[str, str]]) -> str:
    """The table of models, from the entries of the repository index."""
    rows = []
    for entry in index:
        state, reason = entry.get("state"), entry.get("reason")
        if "version" in entry and state:
            rows.append((entry["name"], str(entry["version"]), f"{state}: {reason}" if reason else state))
        else:
            rows.append((entry["name"], "-", f"Not loaded: {reason or 'No model version was found'}"))
    return render(("Model", "Version", "Status"), rows)


def options_table(rows: Iterable[tuple[str, object]]) -> str:
    """The table of the options in force."""
    return render(("Option", "Value"), ((name, str(value)) for name, value in rows))
