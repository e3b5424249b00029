"""TLS for clients: several certificates chosen by SNI, client certificates, and a swap of all of it while serving."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# For TLS 1.2: ephemeral keys and authenticated encryption only. Those of 1.3 are all of this kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "require": ssl.CERT_REQUIRED}


class TlsError(ValueError):
    """A certificate, key or authority cannot be used; the message names the file."""


@dataclass(frozen=True)
class Certificate:
    """PEM files: a certificate with its chain, and its unencrypted key."""

    cert: str
    key: str


@dataclass(frozen=True)
class TlsSettings:
    """``[server.tls]``. The first certificate is the default, for clients without SNI and for unknown names."""

    certificates: Sequence[Certificate]
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_ca: str | None = None
    client_auth: Literal["none", "optional", "require"] = "none"


class Tls:
    """The TLS side of a server: give ``context`` to the listeners; ``reload`` reads the files again.

    A reload that fails raises TlsError and changes nothing. It applies to new handshakes; ``min_version`` and
    ``client_auth`` stay as they were.
    """

    def __init__(self, settings: TlsSettings) -> None:
        if not settings.certificates:
            raise TlsError("TLS needs a certificate")
        self._settings = settings
        self._contexts = _Contexts(settings)
        # OpenSSL takes verification and versions from the context a handshake began with, and the rest from the one
        # that the callback puts in its place.
        self.context = self._contexts.default
        self.context.sni_callback = self._choose

    @property
    def files(self) -> list[Path]:
        """Every file that a reload reads."""
        names = [name for pair in self._settings.certificates for name in (pair.cert, pair.key)]
        if self._settings.client_ca is not None:
            names.append(self._settings.client_ca)
        return [Path(name) for name in names]

    def reload(self) -> None:
        """Read every file again and use what they hold for new connections."""
        self._contexts = _Contexts(self._settings)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        connection.gateway_sni = name  # type: ignore[union-attr]  # read by tls_facts
        context = self._contexts.find(name)
        if context is not self.context:
            # A change costs 40 us: OpenSSL copies certificate and key.
            connection.context = context


class _Contexts:
    """One context for each certificate, by the names in it."""

    def __init__(self, settings: TlsSettings) -> None:
        self._by_name: dict[str, ssl.SSLContext] = {}
        contexts = [_make_context(settings, pair) for pair in settings.certificates]
        self.default = contexts[0]
        if len(contexts) == 1:
            return
        for pair, context in zip(settings.certificates, contexts, strict=True):
            for name in certificate_names(pair.cert):
                self._by_name.setdefault(name, context)

    def find(self, name: str | None) -> ssl.SSLContext:
        if name is None or not self._by_name:
            return self.default
        name = name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            # A wildcard stands for one label, RFC 9525 section 6.3.
            found = self._by_name.get("*." + name.partition(".")[2])
        return found or self.default


def certificate_names(path: str) -> list[str]:
    """The DNS names of the first certificate in a PEM file, in lower case; its common name when it lists none."""
    # Here, because most gateways start without TLS and this is a tenth of the time to start.
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = extension.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            names = [str(attribute.value) for attribute in found]
    except OSError as error:
        raise TlsError(f"{path}: {_reason(error)}") from error
    except ValueError as error:
        raise TlsError(f"{path}: no PEM certificate") from error
    return [name.lower().rstrip(".") for name in names]


def _make_context(settings: TlsSettings, pair: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _naming(pair.cert):
        Path(pair.cert).read_bytes()
    certificate_names(pair.cert)
    with _naming(pair.key):
        if b"ENCRYPTED" in Path(pair.key).read_bytes():
            raise TlsError(f"{pair.key}: the key is encrypted, and nobody can be asked for its password")
        try:
            context.load_cert_chain(pair.cert, pair.key)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsError(f"{pair.key}: not the key of {pair.cert}") from error
            raise TlsError(f"{pair.key}: no PEM key that belongs to {pair.cert}") from error
    if settings.client_auth != "none":
        if settings.client_ca is None:
            raise TlsError(f'client_auth = "{settings.client_auth}" needs client_ca')
        with _naming(settings.client_ca):
            context.load_verify_locations(settings.client_ca)
        context.verify_mode = _CLIENT_AUTH[settings.client_auth]
    return context


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Failures to read a file name it."""
    try:
        yield
    except ssl.SSLError as error:
        raise TlsError(f"{path}: no PEM certificates") from error
    except OSError as error:
        raise TlsError(f"{path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
