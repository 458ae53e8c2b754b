"""tools/bench: Atoll beside the original, in turn on this machine.

A complete run takes about ten minutes and writes docs/bench.md and the table in README.md. A run that leaves something
out (--quick, --only, one server only) prints its table and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # server_process, shared with the demonstration

import cases
import contenders
import peer
import report
from loads import Skipped

ROUNDS = 3
SECONDS = 2.0
"""For each figure, in each round."""


def main() -> int:
    options = _parse()
    if options.setup_peer:
        peer.set_up()
        print(f"The original is ready in {peer.PEERS}")
        return 0

    field = []
    if not options.only_peer:
        field.append(contenders.atoll())
    if not options.only_atoll:
        try:
            field.append(contenders.original())
        except peer.PeerUnavailable as reason:
            print(f"Without the original: {reason}", file=sys.stderr)

    results = report.Results()
    rounds, seconds = (1, 0.5) if options.quick else (ROUNDS, SECONDS)
    for number in range(rounds):
        for contender in field:
            print(f"round {number + 1} of {rounds}: {contender.name}", flush=True)
            run_round(contender, options.only or list(cases.NAMES), seconds, results)

    print(f"\n{report.machine(field)}\n\n{results.table(field, spread=True)}")
    for note in results.notes:
        print(f"Not measured: {note}")
    if len(field) == 2 and not (options.quick or options.only or results.failed):
        report.write(results, field, rounds)
        print("\nWritten to docs/bench.md and README.md")
    return 1 if results.failed or not field else 0


def run_round(contender: contenders.Contender, names: list[str], seconds: float, results: report.Results) -> None:
    """One server for the cases that share one, then the case that brings up its own."""
    served = [name for name in cases.SERVED if name in names]
    if served:
        with (
            tempfile.TemporaryDirectory() as folder,
            contender.serve(contenders.bench_repository(Path(folder))) as server,
        ):
            for name in served:
                take(contender, name, cases.SERVED[name](server, seconds), results)
    if "start" in names:
        take(contender, "start", cases.start(contender), results)


def take(contender: contenders.Contender, name: str, figures: Iterator[cases.Figure], results: report.Results) -> None:
    """Runs one case. What goes wrong in it is noted, and the others are measured all the same."""
    try:
        for figure in figures:
            print(f"  {figure}", flush=True)
            results.add(contender, figure)
    except Skipped as reason:
        results.note(f"{name}: {reason}")
    except Exception as failure:
        results.note(f"{name}, {contender.name}: {failure}")
        results.failed = True


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all works")
    parser.add_argument(
        "--only",
        action="append",
        choices=cases.NAMES,
        metavar="CASE",
        help=f"this case only; may be repeated: {', '.join(cases.NAMES)}",
    )
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--only-atoll", action="store_true", help="without the original")
    alone.add_argument("--only-peer", action="store_true", help="without Atoll")
    alone.add_argument("--setup-peer", action="store_true", help="download the original into .peers/ and end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
