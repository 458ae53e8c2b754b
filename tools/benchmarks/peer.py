"""Sets the original server and its load client up under .peers/, for comparison only; nothing of Atoll depends on them.

The wheel nvidia-pytriton carries the original server, and the wheel tritonclient (2.50.0) its gRPC load client.
"""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PEERS = Path(__file__).resolve().parents[2] / ".peers"
VENV = PEERS / "venv"
BACKENDS = PEERS / "backends"
LIBRARIES = PEERS / "lib"

REQUIREMENTS = (
    "nvidia-pytriton==0.7.0",
    "tritonclient==2.50.0",
    "nvidia-cuda-runtime-cu12",  # perf_analyzer is linked to it, GPU or not
    "numpy<2",  # with numpy 2 the original's stub dies on the first request
)
SERVER_VERSION = "2.51.0"


class PeerUnavailable(Exception):
    """The original cannot run here; the text says why and what would help."""


def set_up() -> None:
    """Downloads and lays out everything once; a complete set-up leaves a mark, so that a broken one is done again."""
    mark = PEERS / "complete"
    if mark.exists():
        return
    _check_shared_interpreter()
    print(f"Setting the original up in {PEERS} (about 150 MB)")
    shutil.rmtree(PEERS, ignore_errors=True)
    _run([_base_python(), "-m", "venv", VENV])
    # Without dependencies: its Python side is not used.
    _run([VENV / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", *REQUIREMENTS])

    server = _site_packages() / "pytriton/tritonserver"
    stub = server / "python_backend_stubs" / _minor_version() / "triton_python_backend_stub"
    if not stub.exists():
        raise PeerUnavailable(f"the original has no stub for Python {_minor_version()}")
    shutil.copytree(server / "backends/python", BACKENDS / "python")
    shutil.copy(stub, BACKENDS / "python")
    LIBRARIES.mkdir()
    for library in (_site_packages() / "nvidia_pytriton.libs").glob("libb64-*"):
        (LIBRARIES / "libb64.so.0d").symlink_to(library)  # perf_analyzer asks for it by its plain name
    mark.touch()


def server_command() -> tuple[str, ...]:
    return (str(_site_packages() / "pytriton/tritonserver/bin/tritonserver"), f"--backend-directory={BACKENDS}")


def server_libraries() -> list[Path]:
    """For LD_LIBRARY_PATH: the stub looks for libpython there, the server for the wheel's own libraries."""
    return [Path(sysconfig.get_config_var("LIBDIR")), _site_packages() / "nvidia_pytriton.libs"]


def perf_analyzer() -> tuple[Path, list[Path]]:
    """The load client's program, and the folders of its libraries."""
    return VENV / "bin/perf_analyzer", [LIBRARIES, _site_packages() / "nvidia/cuda_runtime/lib"]


def numpy_version() -> str:
    return next(_site_packages().glob("numpy-*.dist-info")).name.split("-")[1].removesuffix(".dist")


def _check_shared_interpreter() -> None:
    name = f"libpython{_minor_version()}.so.1.0"
    directory = Path(sysconfig.get_config_var("LIBDIR"))
    if not (directory / name).exists() and not ctypes.util.find_library(f"python{_minor_version()}"):
        raise PeerUnavailable(f"the original's stub needs {name}, and this Python was built without a shared library")


def _minor_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _site_packages() -> Path:
    return VENV / "lib" / f"python{_minor_version()}" / "site-packages"


def _base_python() -> Path:
    """The interpreter that the running virtual environment was made from: the stub links to the same library."""
    return Path(sys.base_prefix, "bin", f"python{_minor_version()}")


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise PeerUnavailable(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
