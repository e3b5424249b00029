"""TLS towards upstreams."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
    *,
    verify: bool = True,
) -> ssl.SSLContext:
    """A context for connections to an upstream, TLS 1.2 or later, offering HTTP/1.1.

    ``ca`` is a PEM file of certificates to trust instead of the system's; ``cert``, with ``key`` unless it holds that
    too, is what the gateway shows. Without ``verify`` any certificate is taken. Raises ValueError naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError) as error:
            raise ValueError(f"{ca}: not a PEM file of certificates: {_why(error)}") from error
    if cert is not None:
        _load_own(context, cert, key)
    elif key is not None:
        raise ValueError(f"{key}: a key without a certificate")
    return context


def _load_own(context: ssl.SSLContext, cert: str | Path, key: str | Path | None) -> None:
    for file in (cert, key):
        if file is not None:
            try:
                Path(file).read_bytes()
            except OSError as error:
                raise ValueError(f"{file}: {_why(error)}") from error
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ValueError(f"{cert} and {key or cert}: not a certificate and its key: {_why(error)}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
