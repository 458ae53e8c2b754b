"""The walls between processes and layers, held by looking at what each file imports, wherever in the file it does."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BACKEND_UTILS = {"atoll_ipc", "triton_python_backend_utils"}
STUB = {"atoll_stub"}
STANDARD_LIBRARY = set(sys.stdlib_module_names)

# What each part of server/atoll may import of the others: only downwards, from frontends to atoll_ipc.
BASE = {"errors", "inference", "observe", "trace"}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "trace": set(),
    "inference": {"errors", "trace"},
    "observe": {"errors", "trace"},
    "repository": {"errors"},
    "environments": {"errors"},
    "instances": {"errors", "inference", "trace", "environments"},
    "scheduling": {*BASE, "instances"},
    "caching": BASE,
    "core": {*BASE, "repository", "environments", "instances", "scheduling", "caching"},
    "frontends": {*BASE, "core"},
    "embedding": {*BASE, "core"},
    "cli": {*BASE, "repository", "environments", "core", "frontends"},
}
# Packages of others that only some parts may know.
PROTOCOLS = {"httptools": "frontends/http/", "grpc": "frontends/grpc/", "aiohttp": "frontends/"}
MOST_LINES = 400


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The full names of what a file imports; ``from a import b`` counts as ``a.b``, ``from . import b`` as ``.b``."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    return frozenset(names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def place(path: Path) -> str:
    """Where a file is within server/atoll, such as ``core/model.py``."""
    return path.relative_to(ROOT / "server" / "atoll").as_posix()


def part(path: Path) -> str:
    """``core`` of ``core/model.py``, ``errors`` of ``errors.py``, "" of the package's own file."""
    name = place(path).partition("/")[0].removesuffix(".py")
    return "" if name == "__init__" else name


def offences(paths: Iterable[Path], find: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """What ``find`` objects to, by file."""
    found = {str(path.relative_to(ROOT)): sorted(find(path), key=str) for path in paths}
    return {path: objections for path, objections in found.items() if objections}


# -- between the folders, which are kinds of processes


def test_backend_utils_imports_nothing_of_stub_and_server() -> None:
    allowed = {*STANDARD_LIBRARY, *BACKEND_UTILS, "numpy", "msgpack"}
    assert offences(sources("backend_utils"), lambda path: packages(path) - allowed) == {}


def test_what_crosses_the_wall_does_not_know_what_models_import() -> None:
    assert (
        offences(sources("backend_utils/atoll_ipc"), lambda path: packages(path) & BACKEND_UTILS - {"atoll_ipc"}) == {}
    )


def test_a_stub_imports_only_backend_utils_and_numpy() -> None:
    allowed = {*STANDARD_LIBRARY, *STUB, *BACKEND_UTILS, "numpy"}
    assert offences(sources("stub"), lambda path: packages(path) - allowed) == {}


def test_the_server_knows_of_the_stub_only_where_it_starts_it() -> None:
    starter = ROOT / "server/atoll/instances/warm_parent.py"
    others = [path for path in sources("server", "protos") if path != starter]
    assert offences(others, lambda path: packages(path) & {*STUB, "triton_python_backend_utils"}) == {}


# -- between the layers of the supervisor


def test_every_part_of_the_supervisor_has_its_layer() -> None:
    assert {part(path) for path in sources("server/atoll")} - {""} == set(LAYERS)


def test_imports_point_down() -> None:
    def upward(path: Path) -> Iterable[str]:
        own = part(path)
        for name in imports(path):
            top, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if top == "atoll" and imported in LAYERS and imported != own and imported not in LAYERS.get(own, set()):
                yield name

    assert offences(sources("server/atoll"), upward) == {}


def test_only_frontends_know_protocols() -> None:
    def known(path: Path) -> Iterable[str]:
        return [name for name in packages(path) & set(PROTOCOLS) if not place(path).startswith(PROTOCOLS[name])]

    assert offences(sources("server/atoll"), known) == {}


def test_only_the_repository_and_grpc_know_protobuf() -> None:
    others = [
        path for path in sources("server/atoll") if not place(path).startswith(("repository/", "frontends/grpc/"))
    ]
    assert offences(others, lambda path: packages(path) & {"atoll_protos", "google"}) == {}


def test_the_facades_stand_on_atoll_and_nothing_under_it_knows_them() -> None:
    facades = {"tritonserver", "tritonfrontend"}
    allowed = {*STANDARD_LIBRARY, *facades, "atoll", "atoll_ipc", "numpy", "cupy"}
    assert (
        offences(
            sources("server/tritonserver"), lambda path: packages(path) - allowed | {"tritonfrontend"} & packages(path)
        )
        == {}
    )
    assert offences(sources("server/tritonfrontend"), lambda path: packages(path) - allowed) == {}
    assert offences(sources("server/atoll"), lambda path: packages(path) & facades) == {}


# -- habits

EVERYTHING = sources("server", "stub", "backend_utils")


def test_no_file_is_long() -> None:
    def length(path: Path) -> Iterable[int]:
        lines = path.read_text(encoding="utf-8").count("\n")
        return [lines] if lines >= MOST_LINES else []

    assert offences(EVERYTHING, length) == {}


def test_every_file_says_what_it_is_about() -> None:
    def undocumented(path: Path) -> Iterable[str]:
        return ["no docstring"] if tree(path).body and not ast.get_docstring(tree(path)) else []

    assert offences(EVERYTHING, undocumented) == {}


def test_no_file_is_a_drawer_for_everything() -> None:
    assert offences(EVERYTHING, lambda path: {path.stem} & {"utils", "util", "helpers", "common", "misc"}) == {}


def test_nothing_is_pickled_or_shared_behind_our_back() -> None:
    refused = {"pickle", "marshal", "shelve", "multiprocessing"}
    assert offences(EVERYTHING, lambda path: packages(path) & refused) == {}


def test_imports_are_absolute() -> None:
    assert offences(EVERYTHING, lambda path: [name for name in imports(path) if name.startswith(".")]) == {}
