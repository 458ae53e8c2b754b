"""The table of medians, and where it goes: docs/bench.md, and the block between the markers in README.md."""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path

import psutil
from cases import Figure, number
from contenders import Contender

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


class Results:
    """Every figure of every round, by line of the table and contender."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failed = False
        self._values: dict[tuple[str, str], dict[str, list[float]]] = {}

    def add(self, contender: Contender, figure: Figure) -> None:
        line = self._values.setdefault((figure.label, figure.unit), {})
        line.setdefault(contender.name, []).append(figure.value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def table(self, contenders: list[Contender], spread: bool) -> str:
        """Markdown. With ``spread`` each median is followed by the smallest and the largest value."""
        names = [contender.name for contender in contenders]
        rows = [["case", "unit", *names], ["---", "---", *["---:" for _ in names]]]
        for (label, unit), values in self._values.items():
            rows.append([label, unit, *(_cell(values.get(name, []), spread) for name in names)])
        if len(names) == 2:
            comparisons = [_comparison(unit, values, names) for (_, unit), values in self._values.items()]
            for row, cell in zip(rows, ["Atoll is", "---:", *comparisons], strict=True):
                row.append(cell)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine(contenders: list[Contender]) -> str:
    """Where and with what the figures were measured."""
    memory_gib = psutil.virtual_memory().total / 2**30
    lines = [
        f"- Machine: {_cpu_model()}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB memory",
        f"- Kernel: {platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, for the servers' models and for the clients",
        *(f"- {item.name}: version {item.version}, numpy {item.numpy_version}" for item in contenders),
        f"- Date: {datetime.date.today().isoformat()}",
    ]
    return "\n".join(lines)


def write(results: Results, contenders: list[Contender], rounds: int) -> None:
    notes = "".join(f"\n- Not measured: {note}" for note in results.notes)
    (ROOT / "docs/bench.md").write_text(
        f"""# Benchmarks

Written by `tools/bench`. Both servers ran on one machine in one run, in turn, {rounds} times each, with the same models
and the same clients; client and server shared the cores. A cell is the median of the rounds, with the smallest and the
largest in parentheses.

{machine(contenders)}{notes}

{results.table(contenders, spread=True)}

The load clients: wrk with one thread for small HTTP requests; perf_analyzer for small gRPC requests; a bare socket
(one buffer sent, one buffer received) and tritonclient, numpy array to numpy array, for large tensors. A BLS hop is
measured inside the model that calls. Ratios carry over to other machines better than the figures do.
"""
    )
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    block = f"{BEGIN}\n{results.table(contenders, spread=False)}\n{END}"
    readme.write_text(f"{before}{block}{after}")


def _cell(values: Iterable[float], spread: bool) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    median = number(statistics.median(ordered))
    return f"{median} ({number(ordered[0])} to {number(ordered[-1])})" if spread and len(ordered) > 1 else median


def _comparison(unit: str, values: dict[str, list[float]], names: list[str]) -> str:
    """How many times better the first is than the second: more of a rate, less of anything else."""
    if len(values) != 2:
        return "-"
    first, second = (statistics.median(values[name]) for name in names)
    factor = first / second if unit.endswith("/s") else second / first
    if 0.95 < factor < 1.05:
        return "equal"
    return f"{factor:.1f} times better" if factor >= 1 else f"{1 / factor:.1f} times worse"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
