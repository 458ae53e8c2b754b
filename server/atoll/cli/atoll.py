"""The command ``atoll``: ``atoll serve MODELS`` with any flag of ``tritonserver``, and ``atoll env``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from atoll import __version__
from atoll.cli.flags import usage
from atoll.cli.options import options_from
from atoll.cli.parser import HelpRequested, UsageError, parse

__all__ = ["main"]

_HELP = """\
Usage: atoll serve MODELS... [options]
       atoll env list | check MODEL | prune
       atoll --version | --help

MODELS is a model repository, or a folder that holds a config.pbtxt and a model.py.
The options are those of tritonserver: see atoll serve --help. For execution environments see atoll env --help.
"""
_SERVE = "atoll serve MODELS... [options]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else ""
    if command in ("--version", "-V"):
        print(f"atoll {__version__}")
        return 0
    if command in ("--help", "-h"):
        sys.stdout.write(_HELP)
        return 0
    if command == "env":
        from atoll.cli import environments

        return environments.main(arguments[1:])
    if command != "serve":
        complaint = f"unknown command {command!r}" if command else "no command given"
        sys.stderr.write(f"{_HELP}\n{complaint}\n")
        return 1
    return _serve(arguments[1:])


def _serve(arguments: Sequence[str]) -> int:
    try:
        parsed = parse(arguments)
        options = options_from(parsed, repositories=parsed.words)
    except HelpRequested:
        sys.stdout.write(usage(_SERVE))
        return 0
    except UsageError as error:
        sys.stderr.write(f"{usage(_SERVE)}\n{error}\n")
        return 1
    for warning in options.warnings:
        print(warning, file=sys.stderr)

    from atoll.cli.run import run  # late: --help and a mistyped flag answer without loading the server

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
