from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.errors import CapacityError, ConnectFailed, Unauthorized
from gateway.middleware.auth import Identity
from gateway.middleware.auth_jwks import MAX_AGE_S, MIN_REFRESH_S, REFRESH_S, RETRY_S
from gateway.middleware.auth_jwt import MAX_TOKEN_BYTES, VERDICT_TTL_S, JwtAuthenticator
from tests.middleware.auth_support import Answer, Clock, ScriptedFetch, request

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
ISSUER, AUDIENCE = "https://id.example/", "shop"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": NOW + 60}

ALGORITHM_OF: dict[type, Any] = {
    rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
    ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
    ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
}


def jwk(private: Any, key_id: str | None, **members: Any) -> dict[str, Any]:
    public = private.public_key()
    make = next(kind for base, kind in ALGORITHM_OF.items() if isinstance(public, base))
    found: dict[str, Any] = {**make.to_jwk(public, as_dict=True), **members}
    found.pop("key_ops", None)
    return found if key_id is None else {**found, "kid": key_id}


KEYS = [jwk(RSA, "rsa"), jwk(EC, "ec"), jwk(ED, "ed"), jwk(EC384, "ec384")]


def token(
    claims: Mapping[str, Any] | None = None,
    *,
    key: Any = RSA,
    algorithm: str = "RS256",
    key_id: str | None = "rsa",
    header: Mapping[str, Any] | None = None,
    **changed: Any,
) -> bytes:
    """A signed token; a claim that is changed to None is left out."""
    merged = {**(CLAIMS if claims is None else claims), **changed}
    kept = {name: value for name, value in merged.items() if value is not None}
    fields = {**({} if key_id is None else {"kid": key_id}), **(header or {})}
    return jwt.PyJWS().encode(json.dumps(kept).encode(), key, algorithm, headers=fields).encode("ascii")


def coded(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def raw(header: Any, payload: bytes | None = None, signature: bytes = b"") -> bytes:
    """A token put together by hand."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b".".join([coded(head), coded(json.dumps(CLAIMS).encode() if payload is None else payload), signature])


def signed_raw(header: Any, payload: bytes | None = None) -> bytes:
    """A token put together by hand, with a good RS256 signature."""
    signing_input = raw(header, payload).rpartition(b".")[0]
    return signing_input + b"." + coded(jwt.get_algorithm_by_name("RS256").sign(signing_input, RSA))


def hmac_token(secret: bytes, header: Mapping[str, Any]) -> bytes:
    """What PyJWT refuses to make: an HMAC under the text of a public key."""
    signing_input = raw(dict(header)).rpartition(b".")[0]
    return signing_input + b"." + coded(hmac.digest(secret, signing_input, hashlib.sha256))


def published(*keys: Mapping[str, Any]) -> Answer:
    return Answer(body=json.dumps({"keys": keys}).encode())


class Issuer:
    """An authenticator, its clocks, and what its issuer publishes."""

    def __init__(self, **options: Any) -> None:
        self.fetch = ScriptedFetch(published(*KEYS))
        self.clock, self.wall = Clock(), Clock(NOW)
        self.authenticator = JwtAuthenticator(
            **{
                "jwks": "https://id.example/keys",
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "fetch": self.fetch,
                "clock": self.clock,
                "wall_clock": self.wall,
                **options,
            }
        )

    async def ask(self, *tokens: bytes, scheme: bytes = b"Bearer ") -> Identity:
        fields = [(b"authorization", scheme + value) for value in tokens]
        return await self.authenticator.authenticate(request(*fields))

    async def refuses(self, *tokens: bytes, scheme: bytes = b"Bearer ") -> None:
        with pytest.raises(Unauthorized) as refused:
            await self.ask(*tokens, scheme=scheme)
        assert refused.value.headers[0][0] == b"www-authenticate"

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds


PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
DER = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("value", "user"),
    [
        pytest.param(token(), "ada", id="RS256"),
        pytest.param(token(key=EC, algorithm="ES256", key_id="ec"), "ada", id="ES256"),
        pytest.param(token(aud=["other", AUDIENCE]), "ada", id="one of several audiences"),
        pytest.param(token(sub=None), "", id="without a subject"),
        pytest.param(token(exp=NOW - 29), "ada", id="expired within the leeway"),
        pytest.param(token(exp=NOW + 0.5), "ada", id="a fraction of a second"),
        pytest.param(token(nbf=NOW + 29), "ada", id="not yet valid within the leeway"),
        pytest.param(token(key_id=None), "ada", id="no key id: every key is tried"),
        pytest.param(token(header={"nonce": "x", "x5t": "y"}), "ada", id="header parameters nobody knows"),
        pytest.param(token(sub="a\ud800b"), "a\\ud800b", id="half a surrogate pair"),
    ],
)
async def test_a_good_token_names_its_subject(value: bytes, user: str) -> None:
    assert (await Issuer().ask(value)).user == user


@pytest.mark.parametrize("scheme", [b"bearer ", b"BEARER ", b"Bearer   "])
async def test_the_scheme_is_read_as_schemes_are(scheme: bytes) -> None:
    assert (await Issuer().ask(token(), scheme=scheme)).user == "ada"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(token(exp=NOW - 31), id="expired"),
        pytest.param(token(exp=NOW - 30), id="expired at the edge of the leeway"),
        pytest.param(token(exp=None), id="without expiry"),
        pytest.param(token(exp="never"), id="expiry that is no number"),
        pytest.param(token(exp=True), id="expiry that is a boolean"),
        pytest.param(token(exp=float("nan")), id="expiry NaN"),
        pytest.param(token(exp=float("inf")), id="expiry Infinity"),
        pytest.param(token(exp=[NOW + 60]), id="expiry in a list"),
        pytest.param(token(nbf=NOW + 31), id="not yet valid"),
        pytest.param(token(nbf="now"), id="nbf that is no number"),
        pytest.param(token(iat=NOW + 31), id="issued in the future"),
        pytest.param(token(aud="other"), id="another audience"),
        pytest.param(token(aud=["other", "third"]), id="other audiences"),
        pytest.param(token(aud=[]), id="no audience in the list"),
        pytest.param(token(aud=None), id="without audience"),
        pytest.param(token(aud="shop2"), id="an audience that begins alike"),
        pytest.param(token(aud={"shop": 1}), id="an audience that is an object"),
        pytest.param(token(iss="https://evil.example/"), id="another issuer"),
        pytest.param(token(iss=ISSUER[:-1]), id="the issuer without its slash"),
        pytest.param(token(iss=[ISSUER]), id="the issuer in a list"),
        pytest.param(token(iss=None), id="without issuer"),
        pytest.param(token(sub=7), id="a subject that is a number"),
        pytest.param(token(sub=["ada"]), id="a subject that is a list"),
        pytest.param(token(key=OTHER_RSA), id="another key under the known id"),
        pytest.param(token(key=OTHER_RSA, key_id="other"), id="an unknown key id"),
        pytest.param(token(key=OTHER_RSA, key_id=None), id="another key without id"),
        pytest.param(token(key_id="ec"), id="the id of a key of another kind"),
        pytest.param(token(key_id=None, header={"kid": ""}), id="an empty key id"),
        pytest.param(signed_raw({"alg": "RS256", "kid": 7}), id="a key id that is a number"),
        pytest.param(signed_raw({"alg": "RS256", "kid": ["rsa"]}), id="a key id in a list"),
        pytest.param(token(algorithm="RS512"), id="an algorithm that is not allowed"),
        pytest.param(token(algorithm="PS256"), id="another padding"),
        pytest.param(token(key=EC384, algorithm="ES384", key_id="ec384"), id="another curve"),
        pytest.param(token(key=ED, algorithm="EdDSA", key_id="ed"), id="EdDSA while it is not allowed"),
        pytest.param(raw({"alg": "none"}), id="none"),
        pytest.param(raw({"alg": "none", "kid": "rsa"}), id="none with a key id"),
        pytest.param(raw({"alg": "None"}), id="None"),
        pytest.param(raw({"alg": "NONE"}), id="NONE"),
        pytest.param(raw({"alg": "RS256", "kid": "rsa"}), id="no signature"),
        pytest.param(hmac_token(PEM, {"alg": "HS256", "kid": "rsa"}), id="HMAC under the public key as PEM"),
        pytest.param(hmac_token(PEM.strip(), {"alg": "HS256"}), id="HMAC under the PEM without its line break"),
        pytest.param(hmac_token(DER, {"alg": "HS256", "kid": "rsa"}), id="HMAC under the public key as DER"),
        pytest.param(hmac_token(PEM, {"alg": "RS256", "kid": "rsa"}), id="HMAC called RS256"),
        pytest.param(hmac_token(b"", {"alg": "HS256"}), id="HMAC under nothing"),
        pytest.param(signed_raw({"kid": "rsa"}), id="no algorithm"),
        pytest.param(signed_raw({"alg": ["RS256"], "kid": "rsa"}), id="algorithms in a list"),
        pytest.param(signed_raw({"alg": "rs256", "kid": "rsa"}), id="an algorithm in lower case"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}), id="crit"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa", "crit": []}), id="an empty crit"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]}), id="b64"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa", "b64": True}), id="b64 true"),
        pytest.param(
            token(key=OTHER_RSA, key_id="mine", header={"jwk": jwk(OTHER_RSA, "mine")}), id="a key in the header"
        ),
        pytest.param(
            token(key=OTHER_RSA, key_id="mine", header={"jku": "https://evil.example/"}), id="a key set in the header"
        ),
        pytest.param(signed_raw([["alg", "RS256"]]), id="a header that is a list"),
        pytest.param(signed_raw(["alg"]), id="a header that is a list of names"),
        pytest.param(signed_raw(b'"alg"'), id="a header that is a text"),
        pytest.param(signed_raw(b"7"), id="a header that is a number"),
        pytest.param(signed_raw(b"[" * 1500), id="a header of brackets"),
        pytest.param(signed_raw(b"\xff\xfe"), id="a header that is not UTF-8"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b"[]"), id="claims that are a list"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b'"x"'), id="claims that are a text"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b"{"), id="claims that are no JSON"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b"\xff"), id="claims that are not UTF-8"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b"[" * 9000), id="claims of brackets"),
        pytest.param(signed_raw({"alg": "RS256", "kid": "rsa"}, b""), id="no claims"),
        pytest.param(token()[:-1], id="a signature that is cut off"),
        pytest.param(token() + b"AAAA", id="a signature that goes on"),
        pytest.param(token() + b"=", id="a signature with padding"),
        pytest.param(token() + b".", id="a fourth part"),
        pytest.param(token().rpartition(b".")[0], id="two parts"),
        pytest.param(b"a.b.c.d.e", id="five parts"),
        pytest.param(b"..", id="nothing but dots"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"x", id="noise"),
        pytest.param(b"\xff\xff.\xff.\xff", id="not ASCII"),
        pytest.param(token() + b" x", id="a second word"),
        pytest.param(b"A" * (MAX_TOKEN_BYTES + 1), id="too long"),
    ],
)
async def test_a_token_that_does_not_hold_is_401(value: bytes) -> None:
    await Issuer().refuses(value)


async def test_changed_claims_under_the_old_signature_are_401() -> None:
    head, _, signature = token().split(b".")
    await Issuer().refuses(b".".join([head, coded(json.dumps({**CLAIMS, "sub": "root"}).encode()), signature]))


@pytest.mark.parametrize("scheme", [b"Basic ", b"", b"Token ", b"Bearer", b"Bearer\t"])
async def test_another_scheme_is_401_with_a_plain_challenge(scheme: bytes) -> None:
    await Issuer().refuses(token(), scheme=scheme)


async def test_no_token_and_two_tokens_are_401() -> None:
    await Issuer().refuses()
    await Issuer().refuses(token(), token())


@pytest.mark.parametrize("allowed", [["none"], ["HS256"], ["RS256", "HS512"], []])
def test_algorithms_without_a_published_key_are_never_allowed(allowed: list[str]) -> None:
    with pytest.raises(ValueError, match="algorithms must be some of"):
        Issuer(algorithms=allowed)


@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"),
    [(ED, "EdDSA", "ed"), (EC384, "ES384", "ec384"), (RSA, "RS512", "rsa"), (RSA, "PS256", "rsa")],
)
async def test_other_algorithms_serve_where_they_are_allowed(key: Any, algorithm: str, key_id: str) -> None:
    issuer = Issuer(algorithms=[algorithm])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await issuer.ask(token(key=key, algorithm=algorithm, key_id=key_id))).user == "ada"
    await issuer.refuses(token())


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([jwk(RSA, "rsa", use="enc")], id="a key for encryption"),
        pytest.param([jwk(RSA, "rsa", alg="PS256")], id="a key for another algorithm"),
        pytest.param([{"kty": "oct", "kid": "rsa", "k": coded(b"secret").decode()}], id="a secret"),
        pytest.param([jwk(EC, "rsa")], id="a key of another kind"),
    ],
)
async def test_keys_verify_only_what_they_are_for(keys: list[Any]) -> None:
    issuer = Issuer()
    issuer.fetch.answer = published(*keys, jwk(EC, "ec"))
    await issuer.refuses(token())
    await issuer.refuses(token(key_id=None))


async def test_keys_that_nobody_understands_do_not_spoil_the_others() -> None:
    issuer = Issuer()
    strange = [{"kty": "LATTICE", "kid": "pq"}, {"kty": "RSA", "kid": "half"}, {"kid": "x"}, 7, jwk(RSA, "rsa")]
    issuer.fetch.answer = Answer(body=json.dumps({"keys": strange, "more": 1}).encode())
    assert (await issuer.ask(token())).user == "ada"


async def test_a_single_key_without_id_serves_tokens_without_id() -> None:
    issuer = Issuer()
    issuer.fetch.answer = published(jwk(RSA, None))
    assert (await issuer.ask(token(key_id=None))).user == "ada"
    await issuer.refuses(token(key_id="rsa"))


async def test_claims_become_fields_where_they_can() -> None:
    issuer = Issuer(
        claims_to_headers={
            "sub": "X-User",
            "groups": "X-Groups",
            "email": "X-Email",
            "admin": "X-Admin",
            "age": "X-Age",
            "nothing": "X-Nothing",
            "absent": "X-Absent",
            "forged": "X-Forged",
            "odd": "X-Odd",
            "address": "X-Address",
        }
    )
    identity = await issuer.ask(
        token(
            groups=["a", "b"],
            email="zoë@example",
            admin=True,
            age=7,
            forged="a\r\nX-Admin: true",
            odd=["a,b", "c"],
            address={"city": "Köln"},
        )
    )
    assert identity.fields == (
        (b"x-user", b"ada"),
        (b"x-groups", b"a,b"),
        (b"x-email", "zoë@example".encode()),
        (b"x-admin", b"true"),
        (b"x-age", b"7"),
        (b"x-odd", b'["a,b","c"]'),
        (b"x-address", b'{"city":"K\\u00f6ln"}'),
    )
    assert issuer.authenticator.identity_fields >= {b"x-user", b"x-nothing", b"x-absent", b"x-forged"}


async def test_the_keys_are_fetched_once_and_again_when_they_are_old() -> None:
    issuer = Issuer()
    for _ in range(3):
        await issuer.ask(token())
    assert len(issuer.fetch.asked) == 1
    assert issuer.fetch.asked[0][0] == "https://id.example/keys"
    issuer.later(REFRESH_S + 1)
    await issuer.ask(token(exp=NOW + 1000))
    await asyncio.sleep(0)
    assert len(issuer.fetch.asked) == 2


async def test_a_rotated_key_is_found_at_once_and_the_old_one_is_no_longer_good() -> None:
    issuer = Issuer()
    await issuer.ask(token())
    issuer.fetch.answer = published(jwk(OTHER_RSA, "next"))
    issuer.later(MIN_REFRESH_S + 1)
    assert (await issuer.ask(token(key=OTHER_RSA, key_id="next"))).user == "ada"
    assert len(issuer.fetch.asked) == 2
    await issuer.refuses(token())


async def test_tokens_with_invented_key_ids_do_not_make_it_ask_all_the_time() -> None:
    issuer = Issuer()
    await issuer.ask(token())
    for number in range(50):
        await issuer.refuses(token(key=OTHER_RSA, key_id=f"x{number}"))
    assert len(issuer.fetch.asked) == 1
    issuer.later(MIN_REFRESH_S + 1)
    for number in range(50):
        await issuer.refuses(token(key=OTHER_RSA, key_id=f"y{number}"))
    assert len(issuer.fetch.asked) == 2


async def test_requests_that_come_together_share_one_fetch() -> None:
    issuer = Issuer()
    go_on = asyncio.Event()

    async def slow(url: str, fields: Any) -> Answer:
        issuer.fetch.asked.append((url, list(fields)))
        await go_on.wait()
        return published(*KEYS)

    issuer = Issuer(fetch=slow)
    asking = [asyncio.create_task(issuer.ask(token())) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    go_on.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] + [Identity] * 9


BROKEN: list[Callable[[], Answer]] = [
    lambda: Answer(status=500),
    lambda: Answer(status=302, fields=[(b"location", b"https://evil.example/")]),
    lambda: Answer(body=b"<html>"),
    lambda: Answer(body=b"[]"),
    lambda: Answer(body=b'{"keys": {}}'),
    lambda: Answer(body=b'{"keys": []}'),
    lambda: Answer(body=json.dumps({"keys": [jwk(RSA, "rsa")] * 101}).encode()),
    lambda: Answer(body=b"[" * 100_000),
]


@pytest.mark.parametrize("broken", [ConnectFailed("refused"), *BROKEN])
async def test_without_keys_it_is_503_and_the_issuer_is_left_alone_for_a_moment(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer()
    issuer.fetch.answer = broken
    for _ in range(5):
        with pytest.raises(CapacityError):
            await issuer.ask(token())
    assert len(issuer.fetch.asked) == 1
    assert len(caplog.records) == 1
    issuer.fetch.answer = published(*KEYS)
    issuer.later(RETRY_S)
    assert (await issuer.ask(token())).user == "ada"


@pytest.mark.parametrize("broken", [ConnectFailed("refused"), *BROKEN])
async def test_keys_stay_in_use_for_a_day_when_the_issuer_fails(broken: Any) -> None:
    issuer = Issuer()
    await issuer.ask(token())
    issuer.fetch.answer = broken
    issuer.later(REFRESH_S + 1)
    assert (await issuer.ask(token(exp=NOW + 1000))).user == "ada"
    await asyncio.sleep(0)
    assert len(issuer.fetch.asked) == 2
    issuer.later(MAX_AGE_S)
    with pytest.raises(CapacityError):
        await issuer.ask(token(exp=NOW + 2 * int(MAX_AGE_S)))


async def test_a_remembered_verdict_ends_with_its_token() -> None:
    issuer = Issuer(leeway_s=0.0)
    value = token(exp=NOW + 5)
    await issuer.ask(value)
    issuer.later(4)
    assert (await issuer.ask(value)).user == "ada"
    issuer.later(1)
    await issuer.refuses(value)


async def test_a_remembered_verdict_ends_with_its_key() -> None:
    issuer = Issuer()
    await issuer.ask(token())
    issuer.fetch.answer = published(jwk(OTHER_RSA, "next"))
    issuer.later(MIN_REFRESH_S + 1)
    await issuer.ask(token(key=OTHER_RSA, key_id="next"))
    assert VERDICT_TTL_S < MIN_REFRESH_S + 1
    await issuer.refuses(token())


async def test_no_token_is_kept_readable() -> None:
    issuer = Issuer()
    await issuer.ask(token())
    assert token().decode() not in repr(list(issuer.authenticator._verdicts.items()))


async def test_a_token_is_known_at_once_from_its_verdict_to_its_end() -> None:
    issuer = Issuer()
    fields = [(b"authorization", b"Bearer " + token())]
    known = issuer.authenticator.known
    assert known(fields) is None
    for _ in range(2):
        # The first verdict makes the keys be fetched, and is not kept across that.
        identity = await issuer.ask(token())
    assert known(fields) is identity
    assert known([*fields, *fields]) is None
    assert known([(b"authorization", b"Bearer x")]) is known([]) is None
    issuer.wall.now = NOW + 60 + 30
    assert known(fields) is None


async def test_a_token_is_not_known_at_once_after_its_issuer_has_changed_its_keys() -> None:
    issuer = Issuer()
    for _ in range(2):
        await issuer.ask(token())
    fields = [(b"authorization", b"Bearer " + token())]
    assert issuer.authenticator.known(fields) is not None
    issuer.fetch.answer = published(jwk(EC, "ec"))
    issuer.clock.now += REFRESH_S + 1
    issuer.authenticator._verdicts[hashlib.sha256(token()).digest()] = (Identity("ada"), NOW + 60.0)
    assert issuer.authenticator.known(fields) is not None
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert issuer.authenticator.known(fields) is None
