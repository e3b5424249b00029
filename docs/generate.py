"""Writes docs/configuration.md, the reference of every key, from the schema that editors use: ``make docs``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gateway.config.availability import NOT_YET  # noqa: E402
from gateway.config.json_schema import json_schema  # noqa: E402

Schema = Mapping[str, Any]

INTRODUCTION = """\
# Configuration

<!-- Made by docs/generate.py from the schema: change the descriptions there, then run `make docs`. -->

Everything stands in one TOML file, `routes.toml` unless another is named. `gateway check` reports every problem of it
as `file:line:column: key: message`; unknown keys are errors, and no key is accepted and ignored. `gateway schema`
prints the JSON Schema from which editors complete and check, and from which this page is made.

**Values.** Durations are strings with a unit: `"250ms"`, `"10s"`, `"5m"`, `"1h"`. Sizes too: `"512B"`, `"64KiB"`,
`"10MiB"`, `"1GiB"`. Bare numbers are refused for both. Types are strict: `"yes"` is no boolean, `"5"` no number.

**Environment.** `${NAME}` and `${NAME:-default}` in any string come from the environment; `$${` is a literal `${`. A
string that is one `${NAME}` may stand for a number or a boolean. A name that is not set and has no default is an
error.

**Paths** of files are relative to the folder of the configuration file.

**Switches.** Where a key takes `true`, `false` or a table, `true` is the table with its defaults.

The smallest useful file:

```toml
[[routes]]
path = "/*"
upstream = "http://127.0.0.1:9001"
```

"""

# Where a table stands, its class in the schema, and what to say beside its own description.
TABLES = (
    (
        "[server]",
        "ServerConfig",
        "In another application only `trusted_proxies`, `client_ip_from`, `request_id_header`, `via` and "
        "`access_log` apply, and of the limits those that ASGI lets one enforce: see "
        "[embedding](embedding.md).",
    ),
    ("[server.limits]", "LimitsConfig", "The statuses are what the client gets."),
    ("[server.overload]", "OverloadConfig", ""),
    ("[server.tls]", "TlsConfig", ""),
    ("[[server.tls.certificates]]", "CertificateConfig", ""),
    (
        "[admin]",
        "AdminConfig",
        "Without a token only `GET /live`, `/ready` and `/metrics` are served, and only for a loopback Host; "
        "`/live` and `/ready` never need one. See [operations](operations.md#the-admin-listener).",
    ),
    ("[cache]", "CacheStoreConfig", "What is cached is decided by [`cache`](#routescache) of each route."),
    (
        "[upstreams.NAME]",
        "UpstreamConfig",
        "A named group of servers. A route may also name an endpoint URL in place: it is an upstream with the "
        "defaults below, shared by all routes that name it.",
    ),
    ("[[upstreams.NAME.endpoints]]", "EndpointConfig", "A string stands for a table with only `url`."),
    ("[upstreams.NAME.sticky]", "StickyConfig", ""),
    ("[upstreams.NAME.tls]", "UpstreamTlsConfig", ""),
    ("[upstreams.NAME.health]", "HealthConfig", ""),
    ("[upstreams.NAME.outlier]", "OutlierConfig", ""),
    (
        "[[routes]]",
        "RouteConfig",
        "Conditions and exactly one action; [routing](routing.md) says which route wins. Every route also "
        "takes the [policies](#policies) below.",
    ),
    (
        "[routes.when]",
        "WhenConfig",
        'Values: `"*"` is present with any value, `"~..."` a regular expression matched from the start (needs '
        "the extra `regex`), anything else the very value.",
    ),
    ("[[routes.split]]", "SplitTarget", ""),
    ("[routes.redirect]", "RedirectConfig", ""),
    ("[routes.respond]", "RespondConfig", ""),
    (
        "Policies",
        "Policies",
        "Keys of `[[routes]]`, and of `[defaults]`, where they hold for every route that does not have the "
        "key itself. A key of a route replaces the whole key of the defaults.",
    ),
    ("[routes.retry]", "RetryConfig", ""),
    ("[routes.websocket]", "WebSocketConfig", ""),
    ("[routes.mirror]", "MirrorConfig", ""),
    ("[routes.cache]", "CacheConfig", ""),
    ("[routes.cache.query]", "CacheQueryConfig", ""),
    ("[routes.compress]", "CompressConfig", ""),
    ("[routes.request_headers], [routes.response_headers]", "HeaderRules", ""),
    ("[routes.rewrite_cookies]", "CookieRules", ""),
    ("[routes.security_headers]", "SecurityHeadersConfig", ""),
    ("[[routes.middleware]]", "MiddlewareConfig", "See [embedding](embedding.md#your-own-middleware)."),
    ("[routes.auth]", "AuthConfig", ""),
    ("[routes.auth.basic]", "BasicAuth", ""),
    ("[routes.auth.api_key]", "ApiKeyAuth", ""),
    ("[routes.auth.jwt]", "JwtAuth", ""),
    ("[routes.auth.forward]", "ForwardAuth", ""),
    ("[routes.cors]", "CorsConfig", ""),
    ("[routes.rate_limit]", "RateLimitConfig", ""),
)

HEADINGS = {class_name: heading for heading, class_name, _ in TABLES}


def reference() -> str:
    """The whole page."""
    schema = json_schema()
    found: dict[str, Schema] = dict(_tables(schema))
    missing = set(found) - set(HEADINGS) - {"routes.toml"}
    if missing:
        raise SystemExit(f"docs/generate.py: no heading for {', '.join(sorted(missing))}")
    contents = "\n".join(
        f"- [`{h}`](#{anchor(h)})" if h != "Policies" else f"- [{h}](#{anchor(h)})" for h in _headings()
    )
    sections = [_section(heading, found[name], name, note) for heading, name, note in TABLES]
    return INTRODUCTION + contents + "\n\n" + "\n".join(sections)


def anchor(heading: str) -> str:
    """The fragment under which a heading is found on the usual sites."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in " -_").replace(" ", "-")


def _headings() -> list[str]:
    return [heading for heading, _, _ in TABLES]


def _tables(node: Any) -> Iterator[tuple[str, Schema]]:
    """Every table of the schema by the name of its class, wherever it stands."""
    if isinstance(node, dict):
        if "properties" in node and isinstance(node.get("title"), str):
            yield node["title"], node
        for value in node.values():
            yield from _tables(value)
    elif isinstance(node, list):
        for value in node:
            yield from _tables(value)


def _section(heading: str, table: Schema, name: str, note: str) -> str:
    shown = f"## {heading}" if heading == "Policies" else f"## `{heading}`"
    description = table.get("description", "").partition("]: ")[2] or table.get("description", "")
    lines = [shown, "", f"{description[:1].upper()}{description[1:]} {note}".strip(), ""]
    if name == "Policies":
        lines[2] = note
    keys = dict(table["properties"])
    if name == "RouteConfig":
        keys = {key: value for key, value in keys.items() if key not in _policy_keys()}
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    required = set(table.get("required", ()))
    for key, value in keys.items():
        default = "required" if key in required else _default(value)
        said = " ".join(str(value.get("description", "")).split())
        if _is_missing(heading, key):
            said += " *Not available yet.*"
        lines.append(f"| `{key}` | {_cell(_kind(value))} | {_cell(default)} | {_cell(said)} |")
    return "\n".join([*lines, ""])


def _policy_keys() -> set[str]:
    return set(dict(_tables(json_schema()))["Policies"]["properties"])


def _is_missing(heading: str, key: str) -> bool:
    table = {"Policies": "routes.*", "[upstreams.NAME]": "upstreams.*"}.get(heading, heading.strip("[]"))
    return f"{table}.{key}" in NOT_YET


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: Schema) -> str:
    return f"`{json.dumps(value['default'])}`" if "default" in value else ""


def _kind(value: Schema) -> str:
    """What a key takes, in a few words."""
    if "$ref" in value:
        return _link(value["$ref"].rpartition("/")[2])
    if value.get("title") in HEADINGS:
        return _link(value["title"])
    if "anyOf" in value:
        kinds = [_kind(option) for option in value["anyOf"] if not _is_reference(option)]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value:
        options = value["enum"]
        return ", ".join(f"`{json.dumps(option)}`" for option in options) if len(options) < 12 else "one of the methods"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    kind = value.get("type")
    if kind == "array":
        return f"list of {_kind(value['items'])}" if value.get("items") else "list"
    if kind == "object":
        below = value.get("additionalProperties")
        return f"table of {_kind(below)}" if isinstance(below, dict) else "table"
    if kind == "string":
        return _string(value)
    if kind == "integer" and "minimum" in value:
        return f"integer from {value['minimum']}"
    if kind == "number" and "maximum" in value:
        return f"number from {value.get('minimum', 0):g} to {value['maximum']:g}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind or "any")


def _string(value: Schema) -> str:
    pattern = value.get("pattern", "")
    if pattern.endswith("(ms|s|m|h)$"):
        return "duration"
    if pattern.endswith("(B|KiB|MiB|GiB)$"):
        return "size"
    if pattern.endswith("/[smhd]$"):
        return "rate"
    if pattern.startswith("^(") and ".+" in pattern:
        words = pattern[2:-2].replace(".+", "NAME").split("|")
        return ", ".join(f'`"{word}"`' for word in words)
    examples = value.get("examples")
    return f"string, e.g. `{json.dumps(examples[0])}`" if examples else "string"


def _link(class_name: str) -> str:
    heading = HEADINGS[class_name]
    return f"[table](#{anchor(heading)})"


def _is_reference(option: Schema) -> bool:
    return str(option.get("description", "")).startswith("From the environment")


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(reference())
