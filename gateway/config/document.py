"""The whole file as a model, and the configuration made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from gateway.config.problems import Problem
from gateway.config.routes import Policies, RouteConfig
from gateway.config.server import AdminConfig, CacheStoreConfig, ServerConfig
from gateway.config.table import FrozenDict, Table
from gateway.config.upstreams import UpstreamConfig


class Document(Table):
    """routes.toml: the route table of a gateway."""

    # Tables are validated one by one; the whole is built only for the JSON Schema.
    model_config = ConfigDict(defer_build=True)

    server: ServerConfig = ServerConfig()
    """The process."""
    admin: AdminConfig | None = None
    """A listener of its own for health, metrics, state and actions; absent: none."""
    cache: CacheStoreConfig = CacheStoreConfig()
    """The store behind `cache` of the routes."""
    upstreams: FrozenDict[str, UpstreamConfig] = FrozenDict()
    """Named groups of endpoints."""
    defaults: Policies = Policies()
    """Any policy key of a route; a route's own value wins."""
    routes: tuple[RouteConfig, ...] = ()
    """What requests are matched against."""


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that holds together: every reference resolves, every route has a name and its merged policies.

    ``upstreams`` also has an entry for each endpoint URL written in place, named by the URL. Two are equal when they
    ask for the same; where they came from and what was warned of does not count.
    """

    server: ServerConfig
    admin: AdminConfig | None
    cache: CacheStoreConfig
    upstreams: FrozenDict[str, UpstreamConfig]
    routes: tuple[RouteConfig, ...]
    path: Path | None = field(default=None, compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Config:
        """A configuration from the table of a file as a dict. Raises ConfigError."""
        from gateway.config.load import load_config

        return load_config(data)
