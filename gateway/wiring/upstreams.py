"""The upstreams of a configuration as settings, and the transports to their endpoints."""

from __future__ import annotations

import ssl

import httpx

from gateway.config.upstreams import EndpointConfig, UpstreamConfig
from gateway.ticker import Ticker
from gateway.upstream.asgi import AsgiTransport
from gateway.upstream.resolve import TransportFactory
from gateway.upstream.settings import (
    EndpointSettings,
    HealthSettings,
    OutlierSettings,
    StickySettings,
    TlsSettings,
    UpstreamSettings,
)
from gateway.upstream.tls import client_context
from gateway.upstream.transports import transport_for


def upstream_settings(name: str, config: UpstreamConfig, *, retry_budget: float, sticky_key: bytes) -> UpstreamSettings:
    """What ``config`` asks of an upstream; ``sticky_key`` keys the cookies that name its endpoints."""
    health, outlier, sticky, tls = config.health, config.outlier, config.sticky, config.tls
    return UpstreamSettings(
        name=name,
        endpoints=tuple(map(_endpoint, config.endpoints)),
        balance=config.balance,
        hash_on=config.hash_on,
        sticky=None if sticky is None else StickySettings(sticky.cookie, sticky.max_age, sticky_key),
        connect_timeout_s=config.connect_timeout,
        keep_alive_s=config.keep_alive,
        max_response_header=config.max_response_header,
        max_connections=config.max_connections,
        max_pending=config.max_pending,
        queue_timeout_s=config.queue_timeout,
        slow_start_s=config.slow_start,
        resolve_s=config.resolve,
        tls=TlsSettings(
            ca=_path(tls.ca),
            cert=_path(tls.cert),
            key=_path(tls.key),
            verify=tls.verify,
            server_name=tls.server_name,
        ),
        health=None
        if health is None
        else HealthSettings(
            path=health.path,
            interval_s=health.interval,
            timeout_s=health.timeout,
            rise=health.rise,
            fall=health.fall,
            status=health.status,
            method=health.method,
            headers=tuple(
                (key.lower().encode("ascii"), text.encode("latin-1")) for key, text in health.headers.items()
            ),
        ),
        outlier=None
        if outlier is None
        else OutlierSettings(
            failures=outlier.failures,
            interval_s=outlier.interval,
            ejection_s=outlier.ejection,
            max_ejection_s=outlier.max_ejection,
            max_ejected=outlier.max_ejected,
        ),
        panic=config.panic,
        retry_budget=retry_budget,
    )


def _endpoint(config: EndpointConfig) -> EndpointSettings:
    return EndpointSettings(
        url=config.url,
        scheme=config.scheme,
        host=config.host,
        port=config.port,
        base_path=config.base_path,
        uds=config.uds,
        app=config.app,
        weight=config.weight,
        backup=config.backup,
        drain=config.drain,
    )


def _path(path: object) -> str | None:
    return None if path is None else str(path)


def transport_factory(ticker: Ticker) -> TransportFactory:
    """Makes the transport to an endpoint; raises ValueError naming what keeps it from being made."""

    def make(settings: UpstreamSettings, endpoint: EndpointSettings) -> httpx.AsyncBaseTransport:
        if endpoint.scheme == "asgi":
            return AsgiTransport(endpoint.app)
        return transport_for(
            endpoint.scheme,
            ticker=ticker,
            host=endpoint.address or endpoint.host,
            port=endpoint.port,
            uds=endpoint.uds,
            ssl_context=_context(settings.tls) if endpoint.scheme == "https" else None,
            server_hostname=(settings.tls.server_name if settings.tls else None) or endpoint.host,
            connect_timeout_s=settings.connect_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            max_response_header=settings.max_response_header,
        )

    return make


def _context(tls: TlsSettings | None) -> ssl.SSLContext:
    tls = tls or TlsSettings()
    return client_context(tls.ca, tls.cert, tls.key, verify=tls.verify)
