from __future__ import annotations

from typing import Any

import pytest

from gateway.config.environ import EnvironmentString, expand
from gateway.config.problems import Report
from tests.config.support import at, lines, load, route, upstream


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("${UNSET:-default}", "default"),
        ("${UNSET:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${A:-default}", "one"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$${A}${A}", "${A}one"),
        ("$A $ {A} }", "$A $ {A} }"),
        ("${NESTED}", "${A}"),
    ],
)
def test_references_are_replaced(text: str, expanded: str) -> None:
    report = Report()
    environ = {"A": "one", "B": "two", "EMPTY": "", "NESTED": "${A}"}
    assert expand({"key": [text]}, environ, report) == {"key": (expanded,)}
    assert not report.has_errors


def test_only_a_string_that_is_one_reference_may_fill_a_number() -> None:
    whole, part, literal = expand(["${A}", "${A}0", "$${A}"], {"A": "1"}, Report())
    assert isinstance(whole, EnvironmentString)
    assert not isinstance(part, EnvironmentString)
    assert not isinstance(literal, EnvironmentString)


def test_keys_are_left_alone() -> None:
    assert expand({"${A}": 1}, {"A": "one"}, Report()) == {"${A}": 1}


def test_an_unset_name_is_an_error_and_the_only_one_about_that_value() -> None:
    assert lines(route(timeout="${NOPE}", max_body="x${NOPE}")) == [
        "routes[0].timeout: the environment variable NOPE is not set; set it or write ${NOPE:-default}",
        "routes[0].max_body: the environment variable NOPE is not set; set it or write ${NOPE:-default}",
    ]


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1}", "${A-B}", "${A:+b}"])
def test_a_malformed_reference_is_an_error(text: str) -> None:
    (line,) = lines(route(respond={"body": text}), A="one")
    assert line.startswith("routes[0].respond.body: ${ without a name and a closing brace")


@pytest.mark.parametrize(
    ("table", "path", "value"),
    [
        (route(priority="${V}"), "routes.0.priority", 7),
        (route(retry={"attempts": "${V}"}), "routes.0.retry.attempts", 7),
        (route(respond={"status": "${UNSET:-201}"}), "routes.0.respond.status", 201),
        (route(redirect={"to": "/", "status": "${UNSET:-301}"}), "routes.0.redirect.status", 301),
        (route(retry={"on": ["${UNSET:-503}"]}), "routes.0.retry.on.0", 503),
        (route(cache="${ON}"), "routes.0.cache.override", False),
        (route(cache="${OFF}"), "routes.0.cache", None),
        (route(compress="${OFF}"), "routes.0.compress", None),
        (route(rewrite_location="${OFF}"), "routes.0.rewrite_location", False),
        (route(buffer_request="${OFF}"), "routes.0.buffer_request", None),
        (route(timeout="${V}s"), "routes.0.timeout", 7.0),
        (route(name="${V}"), "routes.0.name", "7"),
        (upstream(panic="${SHARE}"), "upstreams.api.panic", 0.25),
        (upstream(balance="${BALANCE}"), "upstreams.api.balance", "hash"),
        ({"server": {"workers": "${UNSET:-1}"}}, "server.workers", 1),
    ],
)
def test_any_value_can_come_from_the_environment(table: dict[str, Any], path: str, value: object) -> None:
    config = load(table, V="7", ON="true", OFF="false", SHARE="0.25", BALANCE="hash")
    found = at(config, path)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (route(priority="7"), "routes[0].priority: must be a whole number, not a string"),
        (route(priority="0${V}"), "routes[0].priority: must be a whole number, not a string"),
        (route(priority="${WORD}"), "routes[0].priority: must be a whole number, not a string"),
        (route(rewrite_location="${WORD}"), "routes[0].rewrite_location: must be true or false, not a string"),
        (route(cache="${WORD}"), "routes[0].cache: must be true, false or a table"),
        (upstream(panic="${WORD}"), "upstreams.api.panic: must be a number, not a string"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(table: dict[str, Any], message: str) -> None:
    assert lines(table, V="7", WORD="yes") == [message]
