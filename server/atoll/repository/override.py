"""Model files that come in a load request instead of lying in a repository."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from atoll.errors import Code, ServerError

__all__ = ["ModelFolder"]

_PREFIX = "file:"


class ModelFolder:
    """A model's directory made of the files of a request; gone when nobody holds it any more.

    Every version that was loaded from it holds it: an instance that dies is started again from the same files.
    """

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        """``files`` by ``file:<path>``. Raises ServerError when they do not make a directory."""
        self._root = Path(tempfile.mkdtemp(prefix="atoll_model_"))
        self._holders = 0
        self.path = self._root / name
        try:
            for key, content in files.items():
                self._write(key, content)
        except ServerError:
            self._remove()
            raise

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._remove()

    def _write(self, key: str, content: bytes) -> None:
        try:
            path = (self.path / key.removeprefix(_PREFIX).lstrip("/")).resolve()
            directory = self.path.resolve()
            if not path.is_relative_to(directory) or path == directory:
                raise ServerError(Code.INVALID_ARG, f"file override '{key}' must stay within model directory.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (OSError, ValueError) as error:  # ValueError: a null byte
            raise ServerError(Code.INVALID_ARG, f"file override '{key}': {error}") from error

    def _remove(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
