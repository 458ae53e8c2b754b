"""The command ``atoll env``: what environments are kept, whether one will do, and room for others."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from atoll.environments.cache import EnvironmentCache, default_directory
from atoll.environments.interpreter import Interpreter, probe
from atoll.errors import ServerError

__all__ = ["main"]

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_STOP_S = 10.0
_EMPTY_MODEL = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
_MODEL = "model"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    chosen = _parser().parse_args(arguments)
    cache = EnvironmentCache(chosen.cache_directory, max_nbytes=0)
    try:
        if chosen.command == "list":
            _list(cache)
        elif chosen.command == "prune":
            _prune(cache, chosen.to)
        else:
            _check(chosen.place.absolute(), chosen.cache_directory, chosen.backend_directory)
    except (ServerError, OSError) as error:
        print(error.message if isinstance(error, ServerError) else error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--cache-directory", type=Path, default=default_directory(), help="where they are kept")
    parser = argparse.ArgumentParser(prog="atoll env", description="Execution environments of models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="what is kept, the last used first")
    prune = commands.add_parser("prune", parents=[common], help="remove what no server uses now")
    prune.add_argument("--to", type=_nbytes, default=0, metavar="SIZE", help="until so much is left, such as 5G")
    check = commands.add_parser("check", parents=[common], help="whether a model loads in its environment")
    check.add_argument(
        "place", type=Path, metavar="MODEL", help="the folder of a model; or an archive, an environment, requirements"
    )
    check.add_argument("--backend-directory", default="/opt/tritonserver/backends", help="of Python-based backends")
    return parser


def _nbytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 500M or 5G")
    return int(match[1]) << _UNITS[match[2]]


def _list(cache: EnvironmentCache) -> None:
    found = cache.environments()
    if found:
        print(f"{'ENVIRONMENT':<13} {'SIZE':>9}  {'LAST USED':<16}  {'NOW':<6}  MADE FROM")
    for one in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used))
        now = "in use" if one.in_use else ""
        print(f"{one.key[:12]}  {_size(one.nbytes):>9}  {used:<16}  {now:<6}  {one.source}")
    print(f"{len(found)} in {cache.directory}, {_size(sum(one.nbytes for one in found))}")


def _prune(cache: EnvironmentCache, to_nbytes: int) -> None:
    removed = cache.prune(to_nbytes)
    for one in removed:
        print(f"{one.key[:12]}  {_size(one.nbytes):>9}  {one.source}")
    print(f"{len(removed)} removed, {_size(sum(one.nbytes for one in removed))}")


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _check(place: Path, cache: Path, backends: str) -> None:
    """Load a model, or where it is only an environment, a model that does nothing. Raises ServerError."""
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="atoll-check-") as folder:
        if (place / "config.pbtxt").exists() or any(place.glob("*/model.py")) or (place / "model.py").exists():
            repository, name = place.parent, place.name
        else:
            repository, name = Path(folder), _MODEL
            _write_empty_model(repository / name, place)
        interpreter = asyncio.run(_load(repository, name, cache, backends))
    print(f"{place} loads: {probe(interpreter)}, in {interpreter.prefix or interpreter.python}")


def _write_empty_model(folder: Path, environment: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(_EMPTY_MODEL)
    path = str(environment).replace("\\", "\\\\").replace('"', '\\"')
    (folder / "config.pbtxt").write_text(
        'backend: "python" input [ { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] } ] '
        'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ] '
        f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{path}" }} }}'
    )


async def _load(repository: Path, name: str, cache: Path, backends: str) -> Interpreter:
    from atoll.core.python_model import PythonModel  # late: to list and to prune needs no server
    from atoll.core.server import Server, ServerOptions

    options = ServerOptions(
        repositories=(str(repository),),
        model_control_mode="explicit",
        exit_on_error=False,
        backend_directory=backends,
        env_cache_directory=cache,
    )
    server = Server(options)
    try:
        await server.start()
        await server.load(name)
        model = server.model(name)
        assert isinstance(model, PythonModel)
        return model.warm_parent.interpreter
    finally:
        await server.stop(_STOP_S)
