"""A Python that stubs can run under, and whether they really can.

The stub is plain Python, so any CPython from 3.8 on will do, with numpy beside it. What an environment lacks is found
before a model is loaded in it, and said in one sentence.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import Code, ServerError

__all__ = ["Interpreter", "OWN", "probe"]

_OLDEST = (3, 8)
_PROBE_TIMEOUT_S = 120
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import json, platform
found = {"version": list(sys.version_info[:3]), "implementation": platform.python_implementation(),
         "libc": " ".join(platform.libc_ver())}
try:
    import numpy
    found["numpy"] = numpy.__version__
except Exception as error:
    found["numpy_error"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """``python`` is the path of the executable; ``prefix`` the environment's folder, None for the server's own.

    ``changed_ns`` differs after packages came or went: processes that were started before know nothing of these.
    """

    python: str
    prefix: str | None = None
    changed_ns: int = 0

    def variables(self) -> dict[str, str]:
        """The environment variables of a process under it: the server's, and those that activate the environment.

        The environment's libraries come first in ``LD_LIBRARY_PATH``. The dynamic linker reads that when the process
        starts; the process then takes it out again, since programs that the model starts are the system's.
        """
        variables = dict(os.environ)
        if self.prefix is None:
            return variables
        variables.pop("PYTHONHOME", None)
        variables["PYTHONNOUSERSITE"] = "1"
        variables["VIRTUAL_ENV"] = self.prefix
        variables["VIRTUAL_ENV_PROMPT"] = f"({self.prefix})"
        if os.path.isdir(os.path.join(self.prefix, "conda-meta")):
            variables["CONDA_PREFIX"] = self.prefix
        for name, folder in (("PATH", "bin"), ("LD_LIBRARY_PATH", "lib")):
            paths = [os.path.join(self.prefix, folder), variables.get(name, "")]
            variables[name] = os.pathsep.join(filter(None, paths))
        return variables


OWN = Interpreter(sys.executable)
"""That of the server itself, for models that name no environment."""


def probe(interpreter: Interpreter) -> str:
    """What the environment is, in a few words. Raises ServerError INVALID_ARG with what it lacks and how to add it."""
    place = interpreter.prefix or interpreter.python
    if not os.path.exists(interpreter.python):
        raise _unfit(place, f"there is no Python in it ({interpreter.python}); it must hold bin/python")
    try:
        ended = subprocess.run(
            [interpreter.python, "-c", _PROBE],
            env=interpreter.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise _unfit(place, f"its Python did not answer within {_PROBE_TIMEOUT_S} s") from None
    except OSError as error:
        machine = f"{platform.system()} on {platform.machine()}"
        raise _unfit(
            place, f"its Python does not run here ({error.strerror}); it must be built for {machine}"
        ) from error
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
        raise _unfit(place, f"its Python fails: {last[0]}")
    try:
        found = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise _unfit(place, f"its Python does not behave as one: {ended.stdout.strip()[-200:]!r}") from None
    version = ".".join(map(str, found["version"]))
    if found["implementation"] != "CPython":
        raise _unfit(place, f"its Python is {found['implementation']} {version}; stubs need CPython")
    if tuple(found["version"][:2]) < _OLDEST:
        raise _unfit(place, f"its Python is {version}; stubs need {'.'.join(map(str, _OLDEST))} or newer")
    if "numpy" not in found:
        raise _unfit(
            place,
            f"numpy cannot be imported in it ({found['numpy_error']}); add it, for example with: "
            f"{Path(interpreter.python)} -m pip install numpy",
        )
    return f"Python {version}, numpy {found['numpy']}" + (f", {found['libc']}" if found["libc"] else "")


def _unfit(place: str, reason: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"the execution environment {place} cannot be used: {reason}")
