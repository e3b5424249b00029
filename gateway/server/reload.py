"""The route table of a running gateway replaced by that of its file as it is now."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.app import Gateway
from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.config.server import ServerConfig
from gateway.config.table import Table
from gateway.routes import table_warnings
from gateway.server.watch import content_of

_AT_START = frozenset(["bind", "workers", "access_log", "shutdown_timeout", "tls"])
_LIMITS_IN_ROUTES = frozenset(["max_body"])
"""The other limits belong to the server's own protocol."""

logger = logging.getLogger("gateway")


async def reload_gateway(gateway: Gateway, overrides: Mapping[str, Any] | None = None) -> None:
    """Swap in the file as it is now and log what changed; where that cannot be, its problems, and nothing changes.

    ``overrides`` stand in for keys of ``[server]``, as they did at start.
    """
    old = gateway.config
    if old.path is None:
        return
    try:
        loaded = await asyncio.to_thread(load_config, old.path, extra_warnings=table_warnings)
        new = with_overrides(loaded, overrides or {})
        await gateway.reload(new)
    except ConfigError as error:
        for problem in error.problems:
            logger.error("%s", problem)
        logger.error("reload: %s is not valid: what ran goes on unchanged", old.path)
        return
    for warning in new.warnings:
        logger.warning("%s", warning)
    for line in differences(old, new):
        logger.info("reload: %s", line)


def latest(config: Config, content: bytes | None, overrides: Mapping[str, Any]) -> tuple[Config, bytes | None]:
    """``config``, or what its file holds now if that is no longer ``content``; with it what the file holds.

    A worker that starts later than the others gets what they have reloaded. A file that is not valid is logged.
    """
    now = content_of(config.path) if config.path is not None else None
    if config.path is None or now in (None, content):
        return config, content
    try:
        return with_overrides(load_config(config.path), overrides), now
    except ConfigError as error:
        for problem in error.problems:
            logger.error("%s", problem)
        logger.error("%s is not valid: the worker starts with what it was", config.path)
        return config, now


def with_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """``config`` with other values for keys of ``[server]``."""
    if not overrides:
        return config
    return dataclasses.replace(config, server=config.server.model_copy(update=dict(overrides)))


def differences(old: Config, new: Config) -> list[str]:
    """What a reload changed, a line for each kind of change, and what has to wait for the next start."""
    before = {route.name: route for route in old.routes}
    after = {route.name: route for route in new.routes}
    lines = [*_named("upstream", old.upstreams, new.upstreams), *_named("route", before, after)]
    if not lines and list(before) != list(after):
        lines.append("routes stand in another order")
    live, at_start = _server_keys(old.server, new.server)
    if live:
        lines.append(f"changed: {', '.join(live)}")
    at_start += [key for key in ("admin", "cache") if getattr(old, key) != getattr(new, key)]
    if at_start:
        lines.append(f"takes effect with the next start only: {', '.join(at_start)}")
    return lines or ["nothing changed"]


def _named(kind: str, before: Mapping[str, Table], after: Mapping[str, Table]) -> Iterator[str]:
    changed = [name for name in after if name in before and after[name] != before[name]]
    for word, names in (
        ("added", [name for name in after if name not in before]),
        ("removed", [name for name in before if name not in after]),
        ("changed", [f"{name} ({', '.join(_changed_keys(before[name], after[name]))})" for name in changed]),
    ):
        if names:
            yield f"{kind}{'s' if len(names) > 1 else ''} {word}: {', '.join(names)}"


def _changed_keys(before: Table, after: Table) -> list[str]:
    """Names alone: the values may hold secrets."""
    return [key for key in type(after).model_fields if getattr(before, key) != getattr(after, key)]


def _server_keys(old: ServerConfig, new: ServerConfig) -> tuple[list[str], list[str]]:
    """Keys of [server] that differ: those in force now, and those that are read at start only."""
    live: list[str] = []
    at_start: list[str] = []
    for key in ServerConfig.model_fields:
        if key != "limits" and getattr(old, key) != getattr(new, key):
            (at_start if key in _AT_START else live).append(f"server.{key}")
    for key in type(old.limits).model_fields:
        if getattr(old.limits, key) != getattr(new.limits, key):
            (live if key in _LIMITS_IN_ROUTES else at_start).append(f"server.limits.{key}")
    return live, at_start
