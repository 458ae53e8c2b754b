"""Reads ``config.pbtxt``: text in, a ``ModelConfig`` message out, or an error that names file, line and field."""

import re
from pathlib import Path
from typing import Any

from atoll_protos import messages
from google.protobuf import text_format

from atoll.errors import Code, ServerError

__all__ = ["parse", "read"]


def read(path: Path) -> Any:
    """The configuration in ``path``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ServerError(Code.INTERNAL, f"failed to open text file for read {path}: {error.strerror}") from error
    return parse(content, path)


def parse(content: bytes, path: Path) -> Any:
    """The configuration that ``content`` spells; ``path`` is for error messages."""
    try:
        return text_format.Parse(content.decode(), messages.ModelConfig())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failure(path, f"line {line}: the file is not UTF-8 text") from error
    except text_format.ParseError as error:
        # The position stands at the front of the text itself, as "3:5 : ", in every version of protobuf.
        reason = re.sub(r"^(\d+):(\d+) : ", r"line \1, column \2: ", str(error))
        raise _failure(path, reason) from error


def _failure(path: Path, reason: str) -> ServerError:
    return ServerError(Code.INTERNAL, f"failed to read text proto from {path}: {reason}")
