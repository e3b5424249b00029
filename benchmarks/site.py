"""Where one contender serves, and what it may use for that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """Files with one certificate for 127.0.0.1, of a kind that browsers meet: ECDSA P-256."""

    chain: Path
    key: Path
    bundle: Path
    """Key and chain in one file, as HAProxy reads them."""


@dataclass(frozen=True)
class Site:
    """A port of its own, the upstream's port, a folder for files; with a certificate it speaks TLS to clients."""

    port: int
    upstream: int
    folder: Path
    certificate: Certificate | None = None
    beside: int = 0
    """The port of another server that the contender uses; 0 when it needs none."""

    @property
    def url(self) -> str:
        return f"{'http' if self.certificate is None else 'https'}://127.0.0.1:{self.port}"

    def write(self, name: str, text: str) -> str:
        """The path of a new file ``name`` with ``text`` in it."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


def make_certificate(folder: Path) -> Certificate:
    """A certificate of an authority that nobody knows: load generators do not verify."""
    import trustme

    made = trustme.CA().issue_cert("127.0.0.1")
    certificate = Certificate(folder / "chain.pem", folder / "key.pem", folder / "bundle.pem")
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    certificate.chain.write_bytes(chain)
    certificate.key.write_bytes(made.private_key_pem.bytes())
    certificate.bundle.write_bytes(made.private_key_pem.bytes() + chain)
    return certificate
