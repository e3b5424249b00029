from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from tests.config.support import Table, at, lines, load, problems, route

pytestmark = pytest.mark.usefixtures("everything_available")


def server(**keys: Any) -> Table:
    return {"server": keys}


@pytest.mark.parametrize(
    ("table", "path", "value"),
    [
        (server(workers="auto"), "workers", "auto"),
        (server(workers=4), "workers", 4),
        (server(client_ip_from="forwarded"), "client_ip_from", "forwarded"),
        (server(client_ip_from="header:CF-Connecting-IP"), "client_ip_from", "header:CF-Connecting-IP"),
        (
            server(trusted_proxies=["10.1.2.3/8", "192.0.2.1", "::ffff:192.0.2.0/120", "2001:db8::1/32", "unix"]),
            "trusted_proxies",
            ("10.0.0.0/8", "192.0.2.1/32", "192.0.2.0/24", "2001:db8::/32", "unix"),
        ),
        (server(via="edge-1"), "via", "edge-1"),
        (server(access_log="json"), "access_log", "json"),
        (server(shutdown_timeout="0s"), "shutdown_timeout", 0.0),
        (server(limits={"keep_alive": "0s"}), "limits.keep_alive", 0.0),
        (server(limits={"max_body": "0B"}), "limits.max_body", 0),
        (server(overload={"max_loop_lag": "250ms"}), "overload.max_loop_lag", 0.25),
    ],
)
def test_values_that_are_taken(table: Table, path: str, value: object) -> None:
    assert at(load(table).server, path) == value


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (server(bind=8080), "server.bind: must be a list, not a number"),
        (server(bind=[]), "server.bind: must not be empty"),
        (server(bind="127.0.0.1"), 'server.bind: must be an address with a port, such as "127.0.0.1:8080"'),
        (server(bind=["h:1", "h:99999"]), "server.bind[1]: must be an address with a port"),
        (server(bind=["h:1", "h:1"]), "server.bind: has an address twice"),
        (server(bind=":8080"), 'server.bind: names no address; write "0.0.0.0:8080" or "[::]:8080"'),
        (server(bind="::1:8080"), "server.bind: has no valid host"),
        (server(bind="unix:gateway.sock"), "server.bind: must name a socket by its absolute path"),
        (server(workers=0), "server.workers: must be a whole number from 1 up"),
        (server(workers=True), "server.workers: must be a whole number from 1 up"),
        (server(workers=1.5), "server.workers: must be a whole number from 1 up"),
        (server(trusted_proxies="unix"), "server.trusted_proxies: must be a list, not a string"),
        (server(trusted_proxies=["10.0.0.0/33"]), 'server.trusted_proxies[0]: "10.0.0.0/33" is no network'),
        (server(client_ip_from="x-real-ip"), "server.client_ip_from: must be one of"),
        (server(client_ip_from="header:"), 'server.client_ip_from: "" is no name of a header'),
        (server(request_id_header="X ID"), 'server.request_id_header: "X ID" is no header name'),
        (server(request_id_header=""), "server.request_id_header: must not be empty"),
        (server(bind="[::1:8080"), "server.bind: has no valid host"),
        (server(bind="[::1::]:8080"), "server.bind: has a malformed IPv6 address"),
        (server(via="a b"), "server.via: has characters that are not allowed here"),
        (server(access_log=True), "server.access_log: must be one of"),
        (server(limits={"header_timeout": "0s"}), "server.limits.header_timeout: must be longer than 0"),
        (server(limits={"max_headers": 0}), "server.limits.max_headers: must be at least 1"),
        (server(limits={"max_headers": True}), "server.limits.max_headers: must be a whole number, not a boolean"),
        (server(limits={"max_headers": 1.0}), "server.limits.max_headers: must be a whole number, not a number"),
        (server(overload={"max_in_flight": -1}), "server.overload.max_in_flight: must be at least 0"),
        (server(overload={"exempt": ["helth"]}), 'server.overload.exempt[0]: no route named "helth"'),
        ({"cache": {"store": "redis://"}}, 'cache.store: must be "memory" or "redis://host:6379/0"'),
        ({"cache": {"store": "redis://h/x"}}, 'cache.store: must be "memory" or "redis://host:6379/0"'),
        ({"cache": {"store": "memcached://h"}}, 'cache.store: must be "memory" or "redis://host:6379/0"'),
        ({"cache": {"max_object": 5}}, "cache.max_object: must be a size with a unit"),
        ({"admin": {}}, "admin.bind: is missing"),
        ({"admin": {"bind": "0.0.0.0:9180"}}, "admin.bind: 0.0.0.0:9180 is not loopback: set admin.token"),
        ({"admin": {"bind": "admin.internal:9180"}}, "admin.bind: admin.internal:9180 is not loopback"),
        ({"admin": {"bind": "127.0.0.1:9180", "token": ""}}, "admin.token: must not be empty"),
    ],
)
def test_values_that_are_refused(table: Table, line: str) -> None:
    (found,) = lines(table)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0, ""),
        ("[::1]:8080", "::1", 8080, ""),
        ("Localhost:80", "localhost", 80, ""),
        ("unix:/run/g.sock", "", 0, "/run/g.sock"),
    ],
)
def test_bind_is_taken_apart(text: str, host: str, port: int, path: str) -> None:
    (bind,) = load(server(bind=text)).server.bind
    assert (bind.host, bind.port, bind.path) == (host, port, path)
    assert str(bind) == text.lower()
    assert bind.is_loopback


def test_the_name_of_an_exempt_route_may_be_a_made_one() -> None:
    table = {**route(path="/health"), **server(overload={"exempt": ["/health"]})}
    assert load(table).server.overload.exempt == ("/health",)


def test_secrets_never_show() -> None:
    config = load(
        {
            "admin": {"bind": "0.0.0.0:9180", "token": "${TOKEN}"},
            "cache": {"store": "redis://:geheim@h/0"},
            **route(auth={"api_key": {"keys": {"alice": "geheim"}}}, rate_limit={"store": "redis://:geheim@h/0"}),
        },
        TOKEN="geheim",
    )
    assert config.admin is not None
    assert config.admin.token is not None
    assert config.admin.token.get_secret_value() == "geheim"
    assert "geheim" not in repr(config)


def test_a_listener_that_others_can_reach_has_a_token() -> None:
    admin = load({"admin": {"bind": "[::]:9180", "token": "t"}}).admin
    assert admin is not None
    assert not admin.bind.is_loopback
    assert str(admin.bind) == "[::]:9180"


@pytest.mark.parametrize("cache", [True, False])
def test_memory_beside_several_workers_is_a_warning(cache: bool) -> None:
    config = load({**route(cache=cache, rate_limit={}), **server(workers=2)})
    assert [(warning.key, warning.severity) for warning in config.warnings] == [
        ("server.workers", "warning") for _ in range(1 + cache)
    ]
    assert load({**route(cache=cache, rate_limit={}), **server(workers=1)}).warnings == ()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and a certificate and its key for each of a and b."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("a", "b"):
        made = authority.issue_cert(f"{name}.example.com")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
        for index, part in enumerate(made.cert_chain_pems):
            part.write_to_path(folder / f"{name}.pem", append=index > 0)
    (folder / "junk.pem").write_text("junk")
    return folder


def tls_lines(folder: Path, text: str) -> list[str]:
    path = folder / "routes.toml"
    path.write_text(text)
    try:
        load_config(path, environ={})
    except ConfigError as error:
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("tls", "found"),
    [
        ('certificates = [{ cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }]', []),
        (
            'certificates = [{ cert = "a.pem", key = "b.key" }]',
            ['routes.toml:2:41: server.tls.certificates[0].key: "b.key" is not the key of "a.pem"'],
        ),
        (
            'certificates = [{ cert = "c.pem", key = "c.key" }]',
            [
                'routes.toml:2:26: server.tls.certificates[0].cert: "c.pem": no such file',
                'routes.toml:2:41: server.tls.certificates[0].key: "c.key": no such file',
            ],
        ),
        (
            'certificates = [{ cert = "junk.pem", key = "a.key" }]',
            [
                'routes.toml:2:26: server.tls.certificates[0].cert: "junk.pem" has no usable certificate in PEM form',
            ],
        ),
        (
            'certificates = [{ cert = "a.pem", key = "junk.pem" }]',
            ['routes.toml:2:41: server.tls.certificates[0].key: "junk.pem" has no usable private key in PEM form'],
        ),
        ("certificates = []", ["routes.toml:2:16: server.tls.certificates: must not be empty"]),
        ('min_version = "1.2"', ["routes.toml:1:1: server.tls.certificates: is missing"]),
        (
            'certificates = [{ cert = "a.pem", key = "a.key" }]\nmin_version = "TLS1.2"',
            ['routes.toml:3:15: server.tls.min_version: must be one of "1.2", "1.3" (did you mean "1.2"?)'],
        ),
        (
            'certificates = [{ cert = "a.pem", key = "a.key" }]\nclient_auth = "require"',
            ['routes.toml:1:1: server.tls: client_auth = "require" needs client_ca'],
        ),
        (
            'certificates = [{ cert = "a.pem", key = "a.key" }]\nsubject_header = "X-Subject"',
            ['routes.toml:1:1: server.tls: subject_header needs client_auth = "optional" or "require"'],
        ),
        (
            'certificates = [{ cert = "a.pem", key = "a.key" }]\nsubject_header = "Host"',
            [
                "routes.toml:3:18: server.tls.subject_header: "
                "Host belongs to the connection and cannot be set or removed; use host_header"
            ],
        ),
        (
            'certificates = [{ cert = "a.pem", key = "a.key" }]\nclient_auth = "require"\nclient_ca = "junk.pem"',
            ['routes.toml:4:13: server.tls.client_ca: "junk.pem" has no usable certificate in PEM form'],
        ),
    ],
)
def test_certificates_must_exist_and_fit(certificates: Path, tls: str, found: list[str]) -> None:
    assert tls_lines(certificates, f"[server.tls]\n{tls}") == found


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", []),
        ('client_ca = "ca.pem"', ["routes.toml:3:1: server.tls.client_ca"]),
        ('client_ca = "ca.pem"\nclient_auth = "none"', ["routes.toml:3:1: server.tls.client_ca"]),
        ('client_ca = "ca.pem"\nclient_auth = "optional"', []),
    ],
)
def test_authorities_that_nobody_is_asked_about_are_a_warning(certificates: Path, more: str, found: list[str]) -> None:
    path = certificates / "routes.toml"
    table = f'[server.tls]\ncertificates = [{{ cert = "a.pem", key = "a.key" }}]\n{more}\n'
    path.write_text(f'{table}[[routes]]\npath = "/"\nrespond = {{}}\n')

    warnings = load_config(path, environ={}).warnings

    why = 'has no effect with client_auth = "none": no client is asked for a certificate'
    assert [str(one).removeprefix(f"{certificates}/") for one in warnings] == [f"{place}: {why}" for place in found]


@pytest.mark.parametrize(
    ("tls", "found"),
    [
        ('{ ca = "ca.pem", cert = "a.pem", key = "a.key" }', []),
        ('{ cert = "a.pem" }', ["routes.toml:3:16: upstreams.u.tls.cert: needs key beside it"]),
        ('{ key = "a.key" }', ["routes.toml:3:15: upstreams.u.tls.key: needs cert beside it"]),
        ('{ ca = "no.pem" }', ['routes.toml:3:14: upstreams.u.tls.ca: "no.pem": no such file']),
        (
            '{ cert = "a.pem", key = "b.key" }',
            ['routes.toml:3:31: upstreams.u.tls.key: "b.key" is not the key of "a.pem"'],
        ),
    ],
)
def test_files_of_an_upstream_must_exist_and_fit(certificates: Path, tls: str, found: list[str]) -> None:
    assert tls_lines(certificates, f'[upstreams.u]\nendpoints = ["https://h"]\ntls = {tls}') == found


def test_files_are_relative_to_the_folder_of_the_file(certificates: Path) -> None:
    path = certificates / "routes.toml"
    path.write_text('[server.tls]\ncertificates = [{ cert = "a.pem", key = "a.key" }]')
    tls = load_config(path, environ={}).server.tls
    assert tls is not None
    assert tls.certificates[0].cert == certificates / "a.pem"


def test_an_encrypted_key_is_refused_without_asking_for_its_password(certificates: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((certificates / "a.key").read_bytes(), None)
    (certificates / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"geheim"),
        )
    )
    (line,) = tls_lines(certificates, '[server.tls]\ncertificates = [{ cert = "a.pem", key = "locked.key" }]')
    assert line.endswith('"locked.key" is encrypted; the gateway takes keys without a password')


@pytest.mark.parametrize(
    ("table", "extra"),
    [
        ({"cache": {"store": "redis://h"}}, "redis"),
        (route(rate_limit={"store": "rediss://h"}), "redis"),
        (route(auth={"basic": {"users": {"a": "$2b$12$x"}}}), "basic"),
        (route(auth={"jwt": {"jwks": "https://a/b", "issuer": "i", "audience": "a"}}), "jwt"),
        (route(path="~^/v[0-9]+/"), "regex"),
        (route(when={"header": {"X-A": "~^b"}}), "regex"),
    ],
)
def test_a_missing_extra_names_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, table: Table, extra: str
) -> None:
    import sys

    for module in ("redis", "pwdlib", "joserfc", "re2"):
        monkeypatch.setitem(sys.modules, module, None)
    (problem,) = problems(table)
    assert f'needs the extra "{extra}": pip install "gateway[{extra}]"' in problem.message
