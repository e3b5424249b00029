"""HTTPS: certificates by name, client certificates, swaps, and what the application hears of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from gateway.server.limits import Limits
from gateway.server.tls import Certificate, Tls, TlsError, TlsSettings
from gateway.server.tls_facts import distinguished_name
from tests.server.serving import Client, Echo, serving

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(authority: trustme.CA, folder: Path, name: str, *names: str) -> Certificate:
    made = authority.issue_cert(*names)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    made.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    return Certificate(str(cert), str(key))


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def names_shown(port: int, context: ssl.SSLContext, sni: str) -> set[str]:
    """The names in the certificate that the server shows to a client that asks for ``sni``."""
    import asyncio

    context.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=sni)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return set(found.value.get_values_for_type(x509.DNSName))
    finally:
        await Client(reader, writer).close()


async def test_certificate_is_chosen_by_name(authority: trustme.CA, tmp_path: Path) -> None:
    tls = Tls(
        TlsSettings(
            [
                write(authority, tmp_path, "first", "localhost"),
                write(authority, tmp_path, "second", "b.example", "*.b.example"),
            ]
        )
    )
    async with serving(Echo(), tls=tls.context) as served:
        context = client_context(authority)
        for sni, shown in [
            ("localhost", {"localhost"}),
            ("b.example", {"b.example", "*.b.example"}),
            ("x.B.example", {"b.example", "*.b.example"}),
            ("y.x.b.example", {"localhost"}),
            ("unknown", {"localhost"}),
        ]:
            assert await names_shown(served.port, context, sni) == shown


async def test_requests_and_facts_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    app = Echo()
    tls = Tls(TlsSettings([write(authority, tmp_path, "a", "localhost")]))
    async with serving(app, tls=tls.context) as served:
        served.tls = client_context(authority)
        client = await served.connect()
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        client.write(GET)
        await client.answer()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        assert len((await client.answer())[1]) == 300_000
        await client.close()
    scope = app.scopes[0]
    assert scope["scheme"] == "https"
    facts = scope["extensions"]["tls"]
    assert facts["version"] == "TLSv1.3"
    assert facts["tls_version"] == 0x0304
    assert facts["sni"] == "localhost"
    assert facts["cipher"].startswith("TLS_")
    assert facts["client_cert_name"] is None


async def test_old_versions_are_refused(authority: trustme.CA, tmp_path: Path) -> None:
    tls = Tls(TlsSettings([write(authority, tmp_path, "a", "localhost")], min_version="1.3"))
    async with serving(Echo(), tls=tls.context) as served:
        served.tls = client_context(authority)
        served.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await served.connect()


@pytest.mark.parametrize("mode", ["optional", "require"])
async def test_client_certificates(authority: trustme.CA, tmp_path: Path, mode: str) -> None:
    app = Echo()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    pair = write(authority, tmp_path, "a", "localhost")
    settings = TlsSettings([pair], client_ca=str(ca), client_auth=mode)  # type: ignore[arg-type]
    async with serving(app, tls=Tls(settings).context) as served:
        served.tls = client_context(authority)
        authority.issue_cert("client.example", common_name="Ann, Client").configure_cert(served.tls)
        client = await served.connect()
        client.write(GET)
        await client.answer()
        await client.close()
        facts = app.scopes[0]["extensions"]["tls"]
        assert "CN=Ann\\, Client" in facts["client_cert_name"]
        assert facts["client_cert"].startswith(b"\x30")

        served.tls = client_context(authority)
        client = await served.connect()
        client.write(GET)
        answer = await client.rest() if mode == "require" else (await client.answer())[0]
        assert answer.startswith(b"HTTP/1.1 200") == (mode == "optional")
        await client.close()

        served.tls = client_context(authority)
        trustme.CA().issue_cert("stranger").configure_cert(served.tls)
        client = await served.connect()
        client.write(GET)
        assert await client.rest() == b""
        await client.close()


async def test_reload_swaps_certificates_and_keeps_connections(authority: trustme.CA, tmp_path: Path) -> None:
    tls = Tls(TlsSettings([write(authority, tmp_path, "a", "localhost")]))
    async with serving(Echo(), Limits(), tls=tls.context) as served:
        served.tls = client_context(authority)
        client = await served.connect()
        write(authority, tmp_path, "a", "localhost", "new.example")
        tls.reload()
        assert await names_shown(served.port, client_context(authority), "x") == {"localhost", "new.example"}
        client.write(GET)
        await client.answer()
        await client.close()

        (tmp_path / "a.pem").write_text("nonsense")
        with pytest.raises(TlsError, match=r"a\.pem"):
            tls.reload()
        assert await names_shown(served.port, client_context(authority), "x") == {"localhost", "new.example"}


def test_errors_name_the_file(authority: trustme.CA, tmp_path: Path) -> None:
    good = write(authority, tmp_path, "good", "a")
    other = write(authority, tmp_path, "other", "b")
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    missing = str(tmp_path / "missing.pem")
    for pair, message in [
        (Certificate(missing, good.key), "missing.pem: no such file"),
        (Certificate(good.cert, missing), "missing.pem: no such file"),
        (Certificate(str(junk), good.key), "junk.pem: no PEM certificate"),
        (Certificate(good.cert, str(junk)), "junk.pem: no PEM key"),
        (Certificate(good.cert, other.key), "other.key: not the key of"),
        (Certificate(good.cert, str(encrypted)), "encrypted.key: the key is encrypted"),
    ]:
        with pytest.raises(TlsError, match=message):
            Tls(TlsSettings([pair]))
    with pytest.raises(TlsError, match=r"junk\.pem: no PEM"):
        Tls(TlsSettings([good], client_ca=str(junk), client_auth="require"))
    with pytest.raises(TlsError, match="needs client_ca"):
        Tls(TlsSettings([good], client_auth="require"))
    with pytest.raises(TlsError, match="needs a certificate"):
        Tls(TlsSettings([]))


def test_files_are_those_that_a_reload_reads(authority: trustme.CA, tmp_path: Path) -> None:
    pair = write(authority, tmp_path, "a", "a")
    assert Tls(TlsSettings([pair])).files == [Path(pair.cert), Path(pair.key)]


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("commonName", "a"),)), "CN=a,C=DE"),
        (((("commonName", 'a,b+c"\\<>;'),),), 'CN=a\\,b\\+c\\"\\\\\\<\\>\\;'),
        (((("commonName", "#a "),),), "CN=\\#a\\ "),
        (((("commonName", "a\r\nb"),),), "CN=a\\0d\\0ab"),
        (((("commonName", "a\x00\x7f\u00e9"),),), "CN=a\\00\\7f\u00e9"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
    ],
)
def test_distinguished_names_are_written_as_rfc_4514_says(
    subject: tuple[tuple[tuple[str, str], ...], ...], text: str
) -> None:
    assert distinguished_name(subject) == text
