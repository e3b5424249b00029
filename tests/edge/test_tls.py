"""HTTPS through ``gateway run``: names, certificates of clients, a swap under load, what is offered and refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.edge.process import Process, environment, gateway_process
from tests.support.gateway import request
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TLS_FAILURES = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


class Authority:
    """Certificates in a folder, and what clients need to believe them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.clients = trustme.CA()
        self.clients.cert_pem.write_to_path(str(folder / "clients.pem"))

    def write(self, name: str, *identities: str) -> None:
        """A new pair in ``name``.pem and ``name``.key, each put in place at once."""
        made = self.ca.issue_cert(*identities)
        for ending, blobs in (("key", [made.private_key_pem]), ("pem", made.cert_chain_pems)):
            partial = self.folder / "partial"
            partial.write_bytes(b"".join(blob.bytes() for blob in blobs))
            partial.replace(self.folder / f"{name}.{ending}")

    def client(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path)
    found.write("default", "default.test")
    return found


def table(*certificates: str, more: str = "", route: str = 'respond = { body = "ok" }') -> str:
    pairs = ", ".join(f'{{ cert = "{name}.pem", key = "{name}.key" }}' for name in certificates or ("default",))
    return (
        f'[server]\nbind = "127.0.0.1:0"\naccess_log = "off"\n'
        f'[server.tls]\ncertificates = [{pairs}]\n{more}\n[[routes]]\npath = "/*"\n{route}\n'
    )


@contextlib.asynccontextmanager
async def proxied(folder: Path, more: str) -> AsyncIterator[tuple[Process, ScriptedUpstream]]:
    async with (
        ScriptedUpstream(respond(response(200, body=b"hello"))) as upstream,
        gateway_process(folder, table(more=more, route=f'upstream = "{upstream.url}"')) as gateway,
    ):
        yield gateway, upstream


async def shown(gateway: Process, context: ssl.SSLContext, name: str) -> set[str]:
    """The names in the certificate that the gateway shows for ``name``."""
    client = await gateway.connect(tls=context, name=name)
    try:
        certificate = client.writer.get_extra_info("peercert")
        return {value for _, value in certificate["subjectAltName"]}
    finally:
        await client.close()


async def test_the_certificate_is_chosen_by_name(tmp_path: Path, authority: Authority) -> None:
    authority.write("exact", "exact.test", "www.wild.test")
    authority.write("wild", "*.wild.test")
    async with gateway_process(tmp_path, table("default", "exact", "wild")) as gateway:
        context = authority.client()
        anyone = authority.client()
        anyone.check_hostname = False
        for name, names in {
            "exact.test": {"exact.test", "www.wild.test"},
            "EXACT.test": {"exact.test", "www.wild.test"},
            "a.wild.test": {"*.wild.test"},
            "www.wild.test": {"exact.test", "www.wild.test"},
            "default.test": {"default.test"},
        }.items():
            assert await shown(gateway, context, name) == names
            answer = await gateway.get(tls=context, name=name, host=name.encode())
            assert (answer.status, answer.body) == (200, b"ok")
        # A wildcard stands for one label; whoever names nothing known gets the first.
        for name in ("a.b.wild.test", "wild.test", "unknown.test", "127.0.0.1"):
            assert await shown(gateway, anyone, name) == {"default.test"}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_certificates_are_swapped_under_load_without_a_failed_request(
    tmp_path: Path, authority: Authority, workers: str
) -> None:
    async with gateway_process(tmp_path, table(), "--workers", workers) as gateway:
        context = authority.client()
        stop = asyncio.Event()
        failures: list[str] = []
        answered = 0

        async def user(*, keeps: bool) -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    client = await gateway.connect(tls=context, name="default.test")
                    for _ in range(20 if keeps else 1):
                        client.write(request("GET", b"/", host=b"default.test"))
                        assert (await client.answer()).body == b"ok"
                        answered += 1
                    await client.close()
                except (AssertionError, *TLS_FAILURES) as error:
                    failures.append(repr(error))

        users = [asyncio.create_task(user(keeps=index % 2 == 0)) for index in range(4)]
        serials: list[str] = []
        for _ in range(3):
            authority.write("default", "default.test")
            new = serial_of(tmp_path / "default.pem")
            # Every worker has it: as many new connections in a row as leave no doubt.
            seen = 0
            while seen < 30:
                client = await gateway.connect(tls=context, name="default.test")
                seen = seen + 1 if client.writer.get_extra_info("peercert")["serialNumber"] == new else 0
                await client.close()
                await asyncio.sleep(0.01)
            serials.append(new)
        stop.set()
        await asyncio.gather(*users)
        assert not failures, failures[:5]
        assert len(set(serials)) == 3
        assert answered > 50
        print(f"{answered} requests through 3 swaps, none failed")


@pytest.mark.parametrize("workers", ["1", "3"])
async def test_a_session_is_resumed_by_every_worker_and_after_a_swap(
    tmp_path: Path, authority: Authority, workers: str
) -> None:
    context = authority.client()

    def visit(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        """The session that a connection leaves behind, and whether it began with the one that was there."""
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="default.test", session=session) as client,
        ):
            client.sendall(request("GET", b"/", host=b"default.test"))
            assert client.recv(1024).startswith(b"HTTP/1.1 200 ")
            return client.session, client.session_reused

    async with gateway_process(tmp_path, table(), "--workers", workers) as gateway:
        first, was_resumed = await asyncio.to_thread(visit, gateway.port, None)
        assert first is not None and first.has_ticket and not was_resumed
        # As many as leave no doubt that each worker had one.
        for _ in range(20):
            assert (await asyncio.to_thread(visit, gateway.port, first))[1]
        authority.write("default", "default.test")
        new = serial_of(tmp_path / "default.pem")
        while True:
            client = await gateway.connect(tls=context, name="default.test")
            is_swapped = client.writer.get_extra_info("peercert")["serialNumber"] == new
            await client.close()
            if is_swapped:
                break
        assert (await asyncio.to_thread(visit, gateway.port, first))[1]


def serial_of(path: Path) -> str:
    from cryptography import x509

    text = f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:X}"
    return text if len(text) % 2 == 0 else "0" + text


REQUIRE = 'client_auth = "require"\nclient_ca = "clients.pem"\nsubject_header = "X-Client-Subject"\n'
FORGED = [(b"X-Client-Subject", b"CN=admin"), (b"x-client-subject", b"CN=root"), (b"X_Client_Subject", b"CN=x")]


async def test_clients_with_a_certificate_are_known_to_the_upstream(tmp_path: Path, authority: Authority) -> None:
    known = authority.client(authority.clients.issue_cert("alice@example.com", common_name="alice, the first"))
    async with proxied(tmp_path, REQUIRE) as (gateway, upstream):
        for fields in ([], FORGED, [*FORGED, (b"Connection", b"X-Client-Subject")]):
            assert (await gateway.get(b"/", fields, tls=known, name="default.test")).status == 200
    for seen in upstream.requests:
        (subject,) = seen.values(b"x-client-subject")
        assert subject.startswith(b"CN=alice\\, the first,")
        assert b"CN=admin" not in seen.head and b"CN=root" not in seen.head and b"CN=x" not in seen.head
    assert len(upstream.requests) == 3


async def test_clients_without_the_certificate_are_refused(tmp_path: Path, authority: Authority) -> None:
    stranger = authority.client(trustme.CA().issue_cert("alice@example.com"))
    by_servers = authority.client(authority.ca.issue_cert("default.test"))
    async with proxied(tmp_path, REQUIRE) as (gateway, upstream):
        for context in (authority.client(), stranger, by_servers):
            with pytest.raises(TLS_FAILURES):
                await gateway.get(b"/", FORGED, tls=context, name="default.test")
    assert upstream.connections == []


async def test_an_optional_certificate_may_be_missing_but_not_forged(tmp_path: Path, authority: Authority) -> None:
    stranger = authority.client(trustme.CA().issue_cert("alice@example.com"))
    known = authority.client(authority.clients.issue_cert("alice@example.com", common_name="alice"))
    async with proxied(tmp_path, REQUIRE.replace("require", "optional")) as (gateway, upstream):
        assert (await gateway.get(b"/", FORGED, tls=authority.client(), name="default.test")).status == 200
        assert (await gateway.get(b"/", FORGED, tls=known, name="default.test")).status == 200
        with pytest.raises(TLS_FAILURES):
            await gateway.get(b"/", tls=stranger, name="default.test")
    without, having = upstream.requests
    assert without.values(b"x-client-subject") == without.values(b"x_client_subject") == []
    assert len(having.values(b"x-client-subject")) == 1


async def test_a_connection_has_no_part_in_the_certificate_of_another(tmp_path: Path, authority: Authority) -> None:
    known = authority.client(authority.clients.issue_cert("alice@example.com", common_name="alice"))
    other = authority.client(authority.clients.issue_cert("bob@example.com", common_name="bob"))
    contexts = [authority.client(), known, other]
    async with proxied(tmp_path, REQUIRE.replace("require", "optional")) as (gateway, upstream):
        # The same address and the same words, again and again.
        for context in [*contexts, *contexts, *contexts, *reversed(contexts)]:
            assert (await gateway.get(b"/", tls=context, name="default.test")).status == 200
    subjects = [b"".join(seen.values(b"x-client-subject"))[:6] for seen in upstream.requests]
    assert subjects == [*[b"", b"CN=ali", b"CN=bob"] * 3, b"CN=bob", b"CN=ali", b""]


async def test_plain_requests_are_sent_to_https(tmp_path: Path, authority: Authority) -> None:
    config = table(more='redirect_from = "unix:${PLAIN_SOCKET}"')
    async with gateway_process(tmp_path, config) as gateway:
        port = b":%d" % gateway.port
        for host, target, location in [
            (b"default.test", b"/a%2Fb?c=%20d", b"https://default.test" + port + b"/a%2Fb?c=%20d"),
            (b"default.test:80", b"/", b"https://default.test" + port + b"/"),
            (b"[::1]:80", b"/", b"https://[::1]" + port + b"/"),
            (b"default.test", b"//evil/", b"https://default.test" + port + b"//evil/"),
        ]:
            answer = await gateway.on_socket("plain.sock", request("GET", target, host=host))
            assert (answer.status, answer.value(b"location")) == (308, location)
        answer = await gateway.on_socket("plain.sock", request("POST", b"/", body=b"abc", host=b"default.test"))
        assert answer.status == 308
        for host in (b"a/b", b"a@b", b"a b", b""):
            answer = await gateway.on_socket("plain.sock", request("GET", b"/", host=host))
            assert (answer.status, answer.value(b"location")) == (400, None)


async def test_hsts_is_sent_on_https_only(tmp_path: Path, authority: Authority) -> None:
    route = "respond = {}\nsecurity_headers = true\n"
    async with gateway_process(tmp_path, table(route=route)) as gateway:
        answer = await gateway.get(tls=authority.client(), name="default.test")
        assert answer.value(b"strict-transport-security") == b"max-age=31536000"
        assert answer.value(b"x-content-type-options") == b"nosniff"
    plain = f'[server]\nbind = "127.0.0.1:0"\n[[routes]]\npath = "/*"\n{route}'
    async with gateway_process(tmp_path, plain) as gateway:
        # Nor because an untrusted client says so.
        answer = await gateway.get(b"/", [(b"X-Forwarded-Proto", b"https")])
        assert answer.value(b"strict-transport-security") is None
        assert answer.value(b"x-content-type-options") == b"nosniff"


def offering(version: ssl.TLSVersion, ciphers: str | None = None) -> ssl.SSLContext:
    """A careless client that offers one version and, below 1.3, certain ciphers only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


async def negotiated(gateway: Process, context: ssl.SSLContext) -> str:
    """Version and cipher of a handshake; empty when it is refused."""
    try:
        client = await gateway.connect(tls=context, name="default.test")
    except TLS_FAILURES:
        return ""
    try:
        found: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
        cipher = found.cipher()
        assert cipher is not None
        return f"{found.version()} {cipher[0]}"
    finally:
        await client.close()


OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]
FORWARD_SECRET = {
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
}
"""What TLS 1.2 may use with an ECDSA certificate, as these are."""


async def test_only_good_protocols_and_ciphers_are_offered(tmp_path: Path, authority: Authority) -> None:
    names = [cipher["name"] for cipher in offering(ssl.TLSVersion.TLSv1_2).get_ciphers()]
    ciphers = sorted({name for name in names if not name.startswith("TLS_")})
    async with gateway_process(tmp_path, table()) as gateway:
        for version in OLD:
            assert await negotiated(gateway, offering(version)) == ""
        found = {name for name in ciphers if await negotiated(gateway, offering(ssl.TLSVersion.TLSv1_2, name))}
        latest = await negotiated(gateway, offering(ssl.TLSVersion.TLSv1_3))
        plain = await gateway.connect()
        plain.write(request("GET", b"/"))
        assert not (await plain.rest()).startswith(b"HTTP/1.1 2")
        await plain.close()
    print(f"TLS 1.0, 1.1: refused\nTLS 1.2: {', '.join(sorted(found))} of {len(ciphers)}\nTLS 1.3: {latest}")
    assert found == FORWARD_SECRET
    assert latest.startswith("TLSv1.3 TLS_")


async def test_the_least_version_is_held(tmp_path: Path, authority: Authority) -> None:
    async with gateway_process(tmp_path, table(more='min_version = "1.3"')) as gateway:
        assert await negotiated(gateway, offering(ssl.TLSVersion.TLSv1_2)) == ""
        assert await negotiated(gateway, offering(ssl.TLSVersion.TLSv1_3))


async def test_only_http_1_1_is_agreed_on(tmp_path: Path, authority: Authority) -> None:
    async with gateway_process(tmp_path, table()) as gateway:
        context = authority.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await gateway.connect(tls=context, name="default.test")
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await client.close()


def checked(folder: Path, config: str) -> tuple[int, str]:
    """Exit status and output of ``gateway check``."""
    (folder / "routes.toml").write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check"], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_bad_pairs_are_named_with_their_place(tmp_path: Path, authority: Authority, anyio_backend: object) -> None:
    authority.write("other", "other.test")
    (tmp_path / "junk.pem").write_text("junk")
    (tmp_path / "junk.key").write_text("junk")
    assert checked(tmp_path, table())[0] == 0
    mixed = '{ cert = "default.pem", key = "other.key" }'
    for config, complaint in [
        (table("missing"), "missing.pem"),
        (table("junk"), "junk.pem"),
        (table("default", "junk"), "certificates[1]"),
        (table().replace('{ cert = "default.pem", key = "default.key" }', mixed), "other.key"),
        (table(more='client_auth = "require"\nclient_ca = "junk.pem"'), "junk.pem"),
        (table(more='client_auth = "require"\nclient_ca = "missing.pem"'), "missing.pem"),
    ]:
        status, output = checked(tmp_path, config)
        assert status == 1
        assert complaint in output
        assert output.startswith("routes.toml:"), output
        assert "Traceback" not in output
