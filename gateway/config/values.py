"""Strings of the file that have a form of their own: field names, addresses, networks, statuses, references."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from gateway.config.environ import EnvironmentString
from gateway.config.problems import quoted, suggestion
from gateway.config.table import FrozenDict, JsonSchema, Parsed, kind_of

# fmt: off
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND",
    "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE",
    "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE", "QUERY",
)
# fmt: on
"""What the HTTP parser knows, without CONNECT, which a gateway never serves, and PRI, which is HTTP/2's preface."""

# Obligatory proxy rules own these (RFC 9110 sections 7.2 and 7.6.1, RFC 9112 section 6): no rule may touch them.
_FRAMING = frozenset(
    (
        *("connection", "content-length", "host", "http2-settings", "keep-alive", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN_IN_VALUES = re.compile(r"[^\t\x20-\x7e]")
_MODULE_ATTRIBUTE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_HOST_FIELD = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_MEDIA_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]+/(\*|[!#$&^_.+a-z0-9-]+)")


def parse_token(value: Any) -> str:
    """A token, RFC 9110 section 5.6.2."""
    text = parse_text(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError("must be a token: letters, digits and !#$%&'*+-.^_`|~ only")
    return text


def parse_text(value: Any) -> str:
    """A string that is not empty and has no control characters."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    if not value:
        raise ValueError("must not be empty")
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return str(value)


def parse_header_name(value: Any) -> str:
    """A field name, RFC 9110 section 5.1, in the spelling of the file."""
    text = parse_text(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no header name")
    return text


def parse_rule_name(value: Any) -> str:
    """A field name that header rules may touch."""
    name = parse_header_name(value)
    if name.lower() in _FRAMING:
        instead = "; use host_header" if name.lower() == "host" else ""
        raise ValueError(f"{name} belongs to the connection and cannot be set or removed{instead}")
    return name


def parse_header_value(value: Any) -> str:
    """A field value, RFC 9110 section 5.5: printable ASCII, space and tab; may be empty."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    if _FORBIDDEN_IN_VALUES.search(value):
        raise ValueError("must be printable ASCII without line breaks and control characters")
    if value != value.strip(" \t"):
        raise ValueError("must not begin or end with white space")
    return str(value)


def parse_method(value: Any) -> str:
    method = parse_text(value)
    if method == "CONNECT":
        raise ValueError("CONNECT is always refused and cannot be routed")
    if method not in METHODS:
        raise ValueError(f"unknown method {quoted(method)}{suggestion(method, METHODS)}")
    return method


def parse_network(value: Any) -> str:
    """A CIDR in its canonical spelling. Host bits are dropped, an address alone is itself, IPv4-mapped IPv6 is IPv4."""
    text = parse_text(value)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{quoted(text)} is no network; write "10.0.0.0/8", "192.0.2.1" or "2001:db8::/32"') from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    return str(network)


def parse_peer(value: Any) -> str:
    """A network, or ``unix`` for whoever comes over a UNIX socket."""
    return "unix" if value == "unix" else parse_network(value)


def parse_module_attribute(value: Any) -> str:
    """``package.module:attribute``."""
    text = parse_text(value)
    if not _MODULE_ATTRIBUTE.fullmatch(text):
        raise ValueError(f'must be "package.module:name", not {quoted(text)}')
    return text


def parse_host_field(value: Any) -> str:
    """``preserve``, ``upstream``, or a literal host with an optional port."""
    text = parse_text(value)
    match = _HOST_FIELD.fullmatch(text)
    if match is None or (match[2] and int(match[2][1:]) > 65535):
        raise ValueError('must be "preserve", "upstream", or a host with an optional port')
    return text


def parse_media_type(value: Any) -> str:
    text = parse_text(value).lower()
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueError(f'{quoted(text)} is no media type; write "text/html" or "text/*"')
    return text


class Source(Parsed):
    """Where a request's key comes from: one of ``words``, or ``kind:NAME`` with a kind of ``kinds``."""

    def __init__(self, words: tuple[str, ...], kinds: tuple[str, ...]) -> None:
        self.words = words
        self.kinds = kinds
        pattern = f"^({'|'.join([*words, *(f'{kind}:.+' for kind in kinds)])})$"
        super().__init__(self.read, {"type": "string", "pattern": pattern})

    def read(self, value: Any) -> str:
        text = parse_text(value)
        kind, colon, name = text.partition(":")
        if text in self.words:
            return text
        forms = [*self.words, *(f"{kind}:NAME" for kind in self.kinds)]
        if not colon or kind not in self.kinds:
            raise ValueError(f"must be one of {', '.join(map(quoted, forms))}{suggestion(text, forms)}")
        if not name or (kind != "query" and not _TOKEN.fullmatch(name)):
            raise ValueError(f"{quoted(name)} is no name of a {kind}")
        return text


class FilePath:
    """A path that is relative to the folder of the configuration file (validation context ``folder``)."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def resolve(value: Any, info: core_schema.ValidationInfo) -> Path:
            folder: Path = (info.context or {}).get("folder", Path())
            return folder / parse_text(value)

        return core_schema.with_info_plain_validator_function(
            resolve, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"type": "string", "minLength": 1}


def parse_status_range(value: Any) -> tuple[int, int]:
    """``"200-399"``, ``"204"`` or ``204`` as first and last status."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    match = re.fullmatch("([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", text)
    if match is None:
        raise ValueError('must be a status, or a range of them such as "200-399"')
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"{first} is more than {last}")
    return first, last


def show_status_range(value: tuple[int, int]) -> str:
    first, last = value
    return str(first) if first == last else f"{first}-{last}"


def parse_retry_cause(value: Any) -> str | int:
    """``connect``, ``reset``, ``timeout`` or a status from 400 to 599."""
    causes = ("connect", "reset", "timeout")
    if isinstance(value, EnvironmentString) and value.isdecimal():
        value = int(value)
    if isinstance(value, str) and value in causes:
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    near = suggestion(value, causes) if isinstance(value, str) else ""
    raise ValueError(f'must be "connect", "reset", "timeout" or a status from 400 to 599{near}')


def _names_once(names: FrozenDict[str, Any]) -> FrozenDict[str, Any]:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f"{name} stands here twice: header names do not differ in case")
        seen.add(name.lower())
    return names


_NAME: JsonSchema = {"type": "string", "minLength": 1}

Text = Annotated[str, Parsed(parse_text, _NAME)]
Token = Annotated[str, Parsed(parse_token, _NAME)]
HeaderName = Annotated[str, Parsed(parse_header_name, _NAME)]
RuleName = Annotated[str, Parsed(parse_rule_name, _NAME)]
HeaderValue = Annotated[str, Parsed(parse_header_value, {"type": "string"})]
Method = Annotated[str, Parsed(parse_method, {"type": "string", "enum": list(METHODS)})]
Network = Annotated[str, Parsed(parse_network, {"type": "string", "examples": ["10.0.0.0/8"]})]
Peer = Annotated[str, Parsed(parse_peer, {"type": "string", "examples": ["10.0.0.0/8", "unix"]})]
ModuleAttribute = Annotated[
    str, Parsed(parse_module_attribute, {"type": "string", "examples": ["package.module:name"]})
]
HostField = Annotated[str, Parsed(parse_host_field, {"type": "string", "examples": ["preserve", "upstream"]})]
MediaType = Annotated[str, Parsed(parse_media_type, {"type": "string", "examples": ["text/*"]})]
OptionalName = Annotated[str, StringConstraints(pattern=r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+)?$")]
"""A header name, or empty: none."""
OptionalRuleName = Annotated[OptionalName, AfterValidator(lambda name: parse_rule_name(name) if name else name)]
"""A header name that header rules may touch, or empty: none."""
File = Annotated[Path, FilePath()]
StatusRange = Annotated[
    tuple[int, int],
    Parsed(parse_status_range, {"type": ["string", "integer"], "examples": ["200-399"]}, show=show_status_range),
]
RetryCause = Annotated[
    str | int,
    Parsed(
        parse_retry_cause,
        {"anyOf": [{"enum": ["connect", "reset", "timeout"]}, {"type": "integer", "minimum": 400, "maximum": 599}]},
    ),
]
HeaderMap = Annotated[FrozenDict[HeaderName, HeaderValue], AfterValidator(_names_once)]
RuleMap = Annotated[FrozenDict[RuleName, HeaderValue], AfterValidator(_names_once)]
