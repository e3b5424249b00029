"""The access rules of a configuration as objects: who a client is, and which fields say so."""

from __future__ import annotations

from pydantic import SecretStr

from gateway.config.access import AuthConfig
from gateway.config.server import TlsConfig
from gateway.config.table import FrozenDict
from gateway.middleware.auth import Authenticator, Fetch
from gateway.middleware.auth_api_key import ApiKeys
from gateway.middleware.auth_basic import BasicAuthenticator
from gateway.middleware.auth_forward import ForwardAuthenticator
from gateway.middleware.auth_jwt import JwtAuthenticator


def authenticator(config: AuthConfig, *, fetch: Fetch) -> Authenticator:
    """The one way of authentication that ``config`` asks for. Raises ValueError for keys that cannot be told apart."""
    if config.basic is not None:
        return BasicAuthenticator(_revealed(config.basic.users))
    if config.api_key is not None:
        return ApiKeys(_revealed(config.api_key.keys), header=config.api_key.header)
    if config.jwt is not None:
        jwt = config.jwt
        return JwtAuthenticator(
            jwks=jwt.jwks,
            issuer=jwt.issuer,
            audience=jwt.audience,
            fetch=fetch,
            algorithms=jwt.algorithms,
            leeway_s=jwt.leeway,
            claims_to_headers=jwt.claims_to_headers,
        )
    assert config.forward is not None
    forward = config.forward
    return ForwardAuthenticator(url=forward.url, fetch=fetch, copy_headers=forward.copy_headers, cache_s=forward.cache)


def identity_fields(config: AuthConfig | None, tls: TlsConfig | None) -> frozenset[bytes]:
    """Request fields that the gateway sets to tell the service who the client is; whatever their names, they pass."""
    names = [tls.subject_header] if tls is not None and tls.subject_header else []
    if config is not None and config.jwt is not None:
        names += config.jwt.claims_to_headers.values()
    elif config is not None and config.forward is not None:
        names += config.forward.copy_headers
    return frozenset(name.lower().encode("ascii") for name in names)


def _revealed(secrets: FrozenDict[str, SecretStr]) -> dict[str, str]:
    return {name: secret.get_secret_value() for name, secret in secrets.items()}
