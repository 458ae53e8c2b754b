"""The drop-in command ``tritonserver``: the flags of the original, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from atoll.cli.flags import usage
from atoll.cli.options import Options, options_from
from atoll.cli.parser import HelpRequested, UsageError, parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        options = _options(sys.argv[1:] if argv is None else argv)
    except HelpRequested:
        sys.stderr.write(usage())
        return 1
    except UsageError as error:
        sys.stderr.write(f"{usage()}\n{error}\n")
        return 1
    for warning in options.warnings:
        print(warning, file=sys.stderr)

    from atoll.cli.run import run  # late: --help and a mistyped flag answer without loading the server

    return run(options)


def _options(argv: Sequence[str]) -> Options:
    parsed = parse(argv)
    if parsed.words:
        raise UsageError(f"Unexpected argument: {parsed.words[0]}")
    return options_from(parsed)


if __name__ == "__main__":
    sys.exit(main())
