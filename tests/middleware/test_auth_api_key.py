from __future__ import annotations

import hashlib

import pytest

from gateway.errors import Unauthorized
from gateway.middleware.auth import Identity
from gateway.middleware.auth_api_key import ApiKeys
from tests.middleware.auth_support import request

pytestmark = pytest.mark.anyio

HASHED = "sha256:" + hashlib.sha256(b"other secret").hexdigest()
KEYS = {"ada": "secret", "bob": HASHED, "eve": "sch\u00fcssel"}


@pytest.mark.parametrize(
    ("key", "owner"), [(b"secret", "ada"), (b"other secret", "bob"), ("sch\u00fcssel".encode(), "eve")]
)
async def test_a_key_names_its_owner(key: bytes, owner: str) -> None:
    assert await ApiKeys(KEYS).authenticate(request((b"x-api-key", key))) == Identity(owner)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="nothing"),
        pytest.param([(b"x-api-key", b"")], id="empty"),
        pytest.param([(b"x-api-key", b"Secret")], id="another case"),
        pytest.param([(b"x-api-key", b"secre")], id="too short"),
        pytest.param([(b"x-api-key", b"secrets")], id="too long"),
        pytest.param([(b"x-api-key", b"secret, secret")], id="a list"),
        pytest.param([(b"x-api-key", b"secret"), (b"x-api-key", b"secret")], id="twice"),
        pytest.param([(b"x-api-key", b"wrong"), (b"x-api-key", b"secret")], id="a second one"),
        pytest.param([(b"x-api-key", HASHED.encode())], id="the hash as written"),
        pytest.param([(b"x-api-key", HASHED[7:].encode())], id="the hash itself"),
        pytest.param([(b"x-api-key", bytes.fromhex(HASHED[7:]))], id="the raw hash"),
        pytest.param([(b"x-api-key", b"ada")], id="the owner"),
        pytest.param([(b"x_api_key", b"secret")], id="an underscore"),
        pytest.param([(b"authorization", b"secret")], id="another field"),
        pytest.param([(b"x-api-key", b"\xff" * 4096)], id="noise"),
    ],
)
async def test_everything_else_is_401_with_a_challenge(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthorized) as refused:
        await ApiKeys(KEYS).authenticate(request(*fields))
    assert refused.value.headers == [(b"www-authenticate", b'ApiKey header="X-API-Key"')]


async def test_the_field_is_chosen_and_is_a_credential() -> None:
    keys = ApiKeys(KEYS, header="X-Token")
    assert await keys.authenticate(request((b"x-token", b"secret"))) == Identity("ada")
    assert keys.credential_fields == {b"x-token"}


def test_no_secret_is_kept() -> None:
    kept = repr(vars(ApiKeys(KEYS)))
    assert "secret" not in kept and HASHED[7:] not in kept


@pytest.mark.parametrize("secret", ["sha256:", "sha256:00", "sha256:" + "g" * 64, "sha256:" + "0" * 65])
def test_malformed_hashes_are_an_error(secret: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ApiKeys({"ada": secret})


def test_one_key_with_two_owners_is_an_error_in_whichever_form() -> None:
    with pytest.raises(ValueError, match="'bob' and 'ada' have the same API key"):
        ApiKeys({"ada": "other secret", "bob": HASHED.upper().replace("SHA256", "sha256")})
