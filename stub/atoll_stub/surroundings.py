"""What a stub is told of its own process before the model is loaded: variables, processors, limits and threads.

The warm parent has numpy, and with it a library that has read its environment already: such a library is told by a
call how many threads it may have.
"""

import ctypes
import os
import resource
from typing import Any, Dict, Iterator, Tuple

__all__ = ["apply_surroundings"]

_SETTERS = (
    (
        "openblas",
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
        tuple(f"{start}openblas_set_num_threads{end}" for start in ("", "scipy_") for end in ("", "64_", "_64")),
    ),
    ("mkl_rt", ("MKL_NUM_THREADS", "OMP_NUM_THREADS"), ("MKL_Set_Num_Threads",)),
    ("omp", ("OMP_NUM_THREADS",), ("omp_set_num_threads",)),
)
"""Part of a library's file name, the variables that it reads, and what its function may be called."""


def apply_surroundings(surroundings: Dict[str, Any]) -> None:
    """As atoll.core.surroundings has found them. Raises OSError or ValueError for what cannot be."""
    os.environ.update(surroundings["variables"])
    if "cpus" in surroundings:
        os.sched_setaffinity(0, surroundings["cpus"])
    if surroundings["threads"]:
        _set_threads(surroundings["threads"])
    for name, value in surroundings["limits"].items():
        _limit(name, value)


def _limit(name: str, value: int) -> None:
    """Soft limits: what may be raised again is no prison, but it is what stops an accident."""
    which = resource.RLIMIT_AS if name == "address_space" else resource.RLIMIT_NOFILE
    if which == resource.RLIMIT_AS:
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        if value <= taken:
            raise ValueError(f"an address space of {value} bytes: the stub by itself takes {taken}")
    hard = resource.getrlimit(which)[1]
    try:
        resource.setrlimit(which, (value, hard))
    except ValueError:
        raise ValueError(f"a limit of {value} ({name}): the server's own is {hard}") from None


def _set_threads(threads: Dict[str, int]) -> None:
    for path in set(_libraries()):
        name = os.path.basename(path)
        for part, variables, functions in _SETTERS:
            count = next((threads[variable] for variable in variables if variable in threads), None)
            if part in name and count is not None:
                library = ctypes.CDLL(path)
                for function in functions:
                    if hasattr(library, function):
                        getattr(library, function)(ctypes.c_int(count))


def _libraries() -> Iterator[str]:
    """Files of the libraries that are loaded."""
    with open("/proc/self/maps") as file:
        for line in file:
            fields: Tuple[str, ...] = tuple(line.split(None, 5))
            if len(fields) == 6 and ".so" in fields[5]:
                yield fields[5].rstrip("\n")
