"""TLS on the HTTP port: ours, the original leaves it to a proxy. The flags are named after those of gRPC."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from atoll.errors import Code, ServerError

__all__ = ["TlsOptions", "server_context"]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """``server_cert`` and ``server_key`` are paths of PEM files. Clients must have a certificate where ``root_cert``,
    by which it is verified, is given."""

    server_cert: str
    server_key: str
    root_cert: str | None = None


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Raises ServerError for files that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With a password, if an empty one, nobody is asked for it on the console.
        context.load_cert_chain(options.server_cert, options.server_key, password="")
    except OSError as error:
        what = f"certificate '{options.server_cert}' and key '{options.server_key}'"
        raise ServerError(Code.INVALID_ARG, f"failed to use {what} for HTTP: {error.strerror}") from error
    if options.root_cert is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(options.root_cert)
        except OSError as error:
            what = f"root certificate '{options.root_cert}'"
            raise ServerError(Code.INVALID_ARG, f"failed to use {what} for HTTP: {error.strerror}") from error
    return context
