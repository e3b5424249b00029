"""What the TLS handshake says about the client, for ``scope["extensions"]["tls"]``."""

from __future__ import annotations

import ssl
from typing import Any

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

# Short names of RFC 4514 section 3; other types appear under their own name.
_SHORT_NAMES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_ESCAPES = {ord(character): f"\\{character}" for character in ',+"\\<>;'} | {
    code: f"\\{code:02x}" for code in (*range(32), 127)
}


def tls_facts(tls: ssl.SSLObject | ssl.SSLSocket) -> dict[str, Any]:
    """The facts of a finished handshake.

    The keys of the ASGI TLS extension (``tls_version``, ``cipher_suite``, ``client_cert_name`` in RFC 4514 form), and
    ``version``, ``cipher``, ``sni`` as text, ``client_cert`` as DER bytes, ``client_cert_serial``.
    """
    version = tls.version() or ""
    cipher = tls.cipher()
    certificate: dict[str, Any] = tls.getpeercert() or {}
    subject = certificate.get("subject")
    return {
        "server_cert": None,
        "client_cert_chain": (),
        "client_cert_name": distinguished_name(subject) if subject is not None else None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(version),
        "cipher_suite": None,
        "version": version,
        "cipher": cipher[0] if cipher else "",
        "sni": getattr(tls, "gateway_sni", None) or "",
        "client_cert": tls.getpeercert(binary_form=True),
        "client_cert_serial": certificate.get("serialNumber", ""),
    }


def distinguished_name(subject: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """A subject as ``ssl`` gives it, as text: the last name first, RFC 4514 section 2."""
    return ",".join(
        "+".join(f"{_SHORT_NAMES.get(kind, kind)}={_escape(value)}" for kind, value in names)
        for names in reversed(subject)
    )


def _escape(value: str) -> str:
    escaped = value.translate(_ESCAPES)
    if escaped.startswith(("#", " ")):
        escaped = "\\" + escaped
    if escaped.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
