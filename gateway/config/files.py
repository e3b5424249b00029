"""Files that a configuration names: certificates, keys, password files. Read when it is loaded, so that what cannot
work is said at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gateway.config.problems import KeyPath, Report, quoted
from gateway.config.server import TlsConfig
from gateway.config.upstreams import UpstreamTlsConfig

_HASHES = ("$argon2id$", "$argon2i$", "$argon2d$", "$2a$", "$2b$", "$2y$")
_WEAK = {
    "$apr1$": "an apr1 (MD5) hash",
    "$1$": "an MD5 hash",
    "{SHA}": "an unsalted SHA-1 hash",
    "{SSHA}": "a SHA-1 hash",
    "$5$": "a crypt hash",
    "$6$": "a crypt hash",
}


def check_certificates(tls: TlsConfig, path: KeyPath, report: Report) -> None:
    """Every certificate of the server with its key, and the authorities of its clients."""
    for index, pair in enumerate(tls.certificates):
        _check_pair(pair.cert, pair.key, (*path, "certificates", index), report)
    if tls.client_ca is not None:
        _check_authorities(tls.client_ca, (*path, "client_ca"), report)


def check_upstream_tls(tls: UpstreamTlsConfig, path: KeyPath, report: Report) -> None:
    """The client certificate with its key, and the authorities of the endpoints."""
    if tls.cert is not None and tls.key is not None:
        _check_pair(tls.cert, tls.key, path, report)
    elif tls.cert is not None:
        report.error((*path, "cert"), "needs key beside it")
    elif tls.key is not None:
        report.error((*path, "key"), "needs cert beside it")
    if tls.ca is not None:
        _check_authorities(tls.ca, (*path, "ca"), report)


def _check_pair(cert: Path, key: Path, path: KeyPath, report: Report) -> None:
    import ssl

    unreadable = [(name, reason) for name, file in (("cert", cert), ("key", key)) if (reason := why_unreadable(file))]
    for name, reason in unreadable:
        report.error((*path, name), reason)
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would otherwise be asked for on the terminal.
        context.load_cert_chain(cert, key, password=_no_password)
    except _EncryptedKey:
        report.error((*path, "key"), f"{quoted(str(key))} is encrypted; the gateway takes keys without a password")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            report.error((*path, "key"), f"{quoted(str(key))} is not the key of {quoted(str(cert))}")
        elif not _has_certificate(cert):
            report.error((*path, "cert"), f"{quoted(str(cert))} has no usable certificate in PEM form")
        else:
            report.error((*path, "key"), f"{quoted(str(key))} has no usable private key in PEM form")


def _has_certificate(file: Path) -> bool:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        return False
    return True


def _check_authorities(file: Path, path: KeyPath, report: Report) -> None:
    reason = why_unreadable(file)
    if reason:
        report.error(path, reason)
    elif not _has_certificate(file):
        report.error(path, f"{quoted(str(file))} has no usable certificate in PEM form")


class _EncryptedKey(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKey


def why_unreadable(file: Path) -> str:
    """Why a file cannot be read, or an empty string."""
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return f"{quoted(str(file))}: {os_reason(error)}"
    return ""


def os_reason(error: OSError) -> str:
    """What the system says, in its words without the number."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower().replace(" or directory", "")


def read_users(file: Path, path: KeyPath, report: Report) -> dict[str, str]:
    """Password hashes by user of a file with lines ``user:hash``; blank lines and comments are passed over."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        report.error(path, f"{quoted(str(file))}: {os_reason(error)}")
        return {}
    except UnicodeDecodeError:
        report.error(path, f"{quoted(str(file))} is not UTF-8")
        return {}
    users: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.strip().partition(":")
        complaint = _complaint(user, password) if colon and user else "must be user:hash"
        if user in users:
            complaint = f"the user {quoted(user)} stands here twice"
        if complaint:
            report.error(path, f"{quoted(str(file))}, line {number}: {complaint}")
        users[user] = password
    if not lines or not users:
        report.error(path, f"{quoted(str(file))} has no users")
    return users


def check_users(users: Iterable[tuple[str, str]], path: KeyPath, report: Report) -> None:
    """Passwords written in the configuration."""
    for user, password in users:
        complaint = _complaint(user, password)
        if complaint:
            report.error((*path, user), complaint)


def _complaint(user: str, password: str) -> str:
    if ":" in user:
        return "a user's name cannot have a colon"
    if password.startswith(_HASHES):
        return ""
    weak = next((name for prefix, name in _WEAK.items() if password.startswith(prefix)), "no password hash")
    return f"is {weak}; make an argon2 or bcrypt one, for example with htpasswd -nbB USER PASSWORD"
