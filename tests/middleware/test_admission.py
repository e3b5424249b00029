"""What admission takes from every client; the rest of its rules is tested through a whole gateway in tests/wire."""

from __future__ import annotations

import pytest

from gateway.exchange import Exchange
from gateway.middleware.admission import Admission
from tests.support.messages import http_scope


@pytest.mark.parametrize("name", ["X-Subject", "X_Subject", "x-subject"])
@pytest.mark.parametrize("forged", [b"x-subject", b"x_subject"])
def test_nobody_forges_the_subject_of_a_certificate(name: str, forged: bytes) -> None:
    scope = http_scope(headers=[(b"host", b"a"), (forged, b"CN=root"), (b"accept", b"*/*")])
    scope["extensions"] = {"tls": {"client_cert_name": "CN=ada"}}
    Admission(pseudonym="gw", subject_header=name)(scope, Exchange("GET", b"/"))
    assert scope["headers"] == [(b"host", b"a"), (b"accept", b"*/*"), (name.lower().encode(), b"CN=ada")]
