"""Object stores (``s3://``, ``gs://``, ``as://``): how their URLs are read, and what tells one content from another.

Stores are reached through fsspec, which brings the packages for each kind; credentials come from the environment, as
those packages read them. Everything here waits for a network, and is called in threads.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atoll.errors import Code, ServerError

__all__ = ["RemoteFile", "connect", "explained", "is_remote", "mark_of", "url_for_fsspec"]

# What stores call the mark of a content, and the time that it was written.
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "generation")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


def is_remote(path: str) -> bool:
    """Whether a path is the URL of a store."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


class RemoteFile:
    """A file in a store; ``mark`` differs when its content does. Raises ServerError when it is not there."""

    def __init__(self, url: str) -> None:
        self.url = url
        with explained(f"file {url}"):
            self._store, self._path = connect(url)
            about = self._store.info(self._path)
            if about["type"] != "file":
                raise ServerError(Code.INVALID_ARG, f"{url} is no file")
            self.mark = repr(mark_of(about))

    def copy_to(self, path: Path) -> None:
        """Raises ServerError."""
        with explained(f"file {self.url}"):
            self._store.get_file(self._path, str(path))


def connect(url: str) -> tuple[Any, str]:
    """The file system of a store, and the path in it."""
    from fsspec.core import url_to_fs  # an optional package

    plain, options = url_for_fsspec(url)
    store, path = url_to_fs(plain, **options)
    store.invalidate_cache()
    return store, path


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever a store's package raises becomes a ServerError that names what was read."""
    try:
        yield
    except ServerError:
        raise
    except ImportError as error:
        text = f"{what} needs a package that is not installed ({error}); for S3: pip install 'atoll[remote]'"
        raise ServerError(Code.UNSUPPORTED, text) from error
    except Exception as error:
        text = str(error) or type(error).__name__
        raise ServerError(Code.UNAVAILABLE, f"failed to read {what}: {text}") from error


def mark_of(about: Mapping[str, Any]) -> tuple[object, ...]:
    """What tells the content of a file from another, as far as its store says."""
    marks = [about[key] for key in _MARKS if about.get(key)]
    return (about.get("size"), *(marks or [about[key] for key in _TIMES if about.get(key)]))


def url_for_fsspec(url: str) -> tuple[str, dict[str, Any]]:
    """The original's ways to write a URL, as fsspec knows them: an S3 endpoint, an Azure account."""
    endpoint = re.match(r"s3://(https?://)?([^/:]+:[0-9]+)/(.*)", url)
    if endpoint is not None:
        return f"s3://{endpoint[3]}", {"endpoint_url": f"{endpoint[1] or 'http://'}{endpoint[2]}"}
    azure = re.match(r"as://([^/]+)/(.+)", url)
    if azure is not None:
        account = azure[1].removesuffix(".blob.core.windows.net")
        key = os.environ.get("AZURE_STORAGE_KEY")
        return f"abfs://{azure[2]}", {"account_name": account, **({"account_key": key} if key else {})}
    return url, {}
