"""The commands: run, check, routes, explain, schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import __version__

if TYPE_CHECKING:
    from gateway.config.document import Config

EXIT_INVALID = 1

config_argument = click.argument("config", default="routes.toml", type=click.Path(dir_okay=False), required=False)
format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", help="Form of the output."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A reverse-proxy gateway: one TOML file, a Starlette application, extended in Python."""


@main.command()
@config_argument
@click.option("--bind", multiple=True, metavar="ADDR", help="Listen here instead of server.bind; may be repeated.")
@click.option("--workers", metavar="N", help='Processes sharing the port instead of server.workers, or "auto".')
@click.option("--reload/--no-reload", default=True, show_default=True, help="Apply changes of the file as they happen.")
def run(config: str, bind: tuple[str, ...], workers: str | None, reload: bool) -> None:
    """Serve CONFIG (default routes.toml)."""
    from gateway.server.run import RunFailed, run_gateway

    loaded = load_or_exit(config)
    try:
        run_gateway(with_overrides(loaded, bind, workers), watch=reload)
    except RunFailed as failure:
        fail(str(failure))


@main.command()
@config_argument
def check(config: str) -> None:
    """Report every problem of CONFIG as file:line:column: key: message."""
    loaded = load_or_exit(config)
    for problem in loaded.warnings:
        click.echo(f"{problem}", err=True)
    count = len(loaded.warnings)
    endings = "" if not count else f", {count} warning{'s' if count > 1 else ''}"
    click.echo(f"{config}: valid, {len(loaded.routes)} routes, {len(loaded.upstreams)} upstreams{endings}")


@main.command()
@config_argument
@format_option
def routes(config: str, output: str) -> None:
    """List the routes of CONFIG in matching order."""
    from gateway.explain import describe_route, routes_table
    from gateway.routes import route_table

    loaded = load_or_exit(config)
    table = route_table(loaded)
    by_name = {route.name: route for route in loaded.routes}
    entries = [describe_route(by_name[rule.name]) for rule in table.in_order()]
    if output == "json":
        print_json(entries)
    else:
        show(routes_table(entries))


@main.command()
@click.argument("url")
@click.option("-X", "--method", default="GET", show_default=True, help="Method of the request.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'Name: value'", help="A field of the request.")
@click.option("--client", default="127.0.0.1", show_default=True, help="Address of the client.")
@click.option("--config", "config", default="routes.toml", show_default=True, type=click.Path(dir_okay=False))
@format_option
def explain(url: str, method: str, headers: tuple[str, ...], client: str, config: str, output: str) -> None:
    """Say which route URL takes and why, and what happens to the request."""
    from gateway.explain import Question, explain_request, explanation_text

    try:
        question = Question.parse(url, method=method.upper(), headers=headers, client=client)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    answer = explain_request(load_or_exit(config), question)
    if output == "json":
        print_json(answer)
    else:
        show(explanation_text(answer))
    sys.exit(0 if answer["route"] is not None else EXIT_INVALID)


@main.command()
def schema() -> None:
    """Print the JSON Schema of routes.toml, for editors."""
    from gateway.config.json_schema import json_schema

    print_json(json_schema())


def load_or_exit(path: str) -> Config:
    """The configuration in ``path``; prints every problem and exits with 1 when it is not valid."""
    from gateway.config.load import load_config
    from gateway.config.problems import ConfigError
    from gateway.routes import table_warnings

    try:
        return load_config(Path(path), extra_warnings=table_warnings)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{problem}", err=True)
        errors = len([problem for problem in error.problems if problem.severity == "error"])
        if errors > 1:
            click.echo(f"{path}: {errors} problems", err=True)
        sys.exit(EXIT_INVALID)


def with_overrides(config: Config, bind: tuple[str, ...], workers: str | None) -> Config:
    """``config`` with what the command line says instead of the file."""
    import dataclasses

    from gateway.config.addresses import parse_bind

    changes: dict[str, Any] = {}
    try:
        if bind:
            changes["bind"] = tuple(parse_bind(address) for address in bind)
    except ValueError as error:
        raise click.UsageError(f"--bind: {error}") from error
    if workers is not None:
        if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
            raise click.UsageError('--workers: must be a number from 1 up or "auto"')
        changes["workers"] = workers if workers == "auto" else int(workers)
    if not changes:
        return config
    return dataclasses.replace(config, server=config.server.model_copy(update=changes))


def print_json(value: Any) -> None:
    """Plain JSON on standard output, whatever the terminal."""
    click.echo(json.dumps(value, indent=2))


def show(renderable: Any) -> None:
    """Text for people: plain when standard output is no terminal."""
    if isinstance(renderable, str):
        click.echo(renderable)
        return
    from rich.console import Console

    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(renderable)


def fail(message: str) -> None:
    """One clear line on standard error, and exit status 1."""
    click.echo(f"gateway: {message}", err=True)
    sys.exit(1)
