"""The commands: run, check, routes, explain, schema.

What a command needs is imported when it runs: ``gateway check`` loads neither server nor HTTP client.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.config.document import Config
    from gateway.config.problems import Problem

EXIT_INVALID = 1


class OneLineErrors(click.Group):
    """A group whose usage errors are one line on standard error, with exit status 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "gateway"
            click.echo(f"{command}: {one_line(error.format_message()).rstrip('.')} (see {command} --help)", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)


CONFIG_VARIABLE = "GATEWAY_CONFIG"

config_argument = click.argument(
    "config", default="routes.toml", type=click.Path(), required=False, envvar=CONFIG_VARIABLE
)
format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of output."
)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A reverse-proxy gateway: one TOML file, a Starlette application, extended in Python.

    CONFIG is routes.toml unless another file is named, there or by GATEWAY_CONFIG. Exit status: 0 done, 1 the
    configuration is not valid or the gateway cannot start, 2 the command line is wrong.
    """


@main.command()
@config_argument
@click.option("--bind", multiple=True, metavar="ADDR", help="Listen here instead of server.bind; may be repeated.")
@click.option("--workers", metavar="N", help='Processes sharing the port instead of server.workers, or "auto".')
@click.option("--reload/--no-reload", default=True, show_default=True, help="Apply changes of the file as they happen.")
def run(config: str, bind: tuple[str, ...], workers: str | None, reload: bool) -> None:
    """Serve CONFIG until stopped.

    SIGHUP reads the file anew, SIGUSR2 replaces the workers one by one, SIGTERM and SIGINT finish what runs and end; a
    second one ends at once.
    """
    overrides = server_overrides(bind, workers)
    # What imports make stays: looking for garbage in it would take a tenth of the time to start.
    gc.disable()
    import_httpx()
    from gateway.server.run import RunFailed, run_gateway

    loaded = load_or_exit(config)
    print_warnings(loaded)
    gc.enable()
    try:
        run_gateway(loaded, watch=reload, overrides=overrides)
    except RunFailed as failure:
        fail(str(failure))


@main.command()
@config_argument
def check(config: str) -> None:
    """Report every problem of CONFIG as file:line:column: key: message.

    Exit status: 0 valid, perhaps with warnings; 1 not valid.
    """
    loaded = load_or_exit(config)
    print_warnings(loaded)
    counts = [counted(len(loaded.routes), "route"), counted(len(loaded.upstreams), "upstream")]
    if loaded.warnings:
        counts.append(counted(len(loaded.warnings), "warning"))
    click.echo(f"{config}: valid, {', '.join(counts)}")


@main.command()
@config_argument
@format_option
def routes(config: str, output: str) -> None:
    """List the routes of CONFIG in matching order, with their upstreams and policies.

    The text leaves out policies that are on by default; JSON has them all. Secrets never show.
    """
    from gateway.describe import describe_routes, routes_view
    from gateway.routes import route_table

    loaded = load_or_exit(config)
    entries = describe_routes(loaded, [rule.name for rule in route_table(loaded).in_order()])
    if output == "json":
        print_json(entries)
    else:
        show(routes_view(entries))


@main.command()
@click.argument("url")
@click.option("-X", "--method", default="GET", show_default=True, help="Method of the request.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'Name: value'", help="A field; may be repeated.")
@click.option("--client", default="127.0.0.1", show_default=True, metavar="IP", help="Where the request comes from.")
@click.option(
    "--config", default="routes.toml", show_default=True, type=click.Path(), envvar=CONFIG_VARIABLE, help="The file."
)
@format_option
def explain(url: str, method: str, headers: tuple[str, ...], client: str, config: str, output: str) -> None:
    """Say which route URL takes and why the others do not, and what happens to the request.

    URL may be a path, then on localhost; ws:// asks for a WebSocket. Nothing is sent anywhere. Exit status: 0 when a
    route takes it, 1 when none does.
    """
    from gateway.explain import Question, explain_request, explanation_text

    try:
        question = Question.parse(url, method=method.upper(), headers=headers, client=client)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    answer = explain_request(load_or_exit(config), question)
    if output == "json":
        print_json(answer)
    else:
        click.echo(explanation_text(answer))
    sys.exit(0 if answer["route"] is not None else EXIT_INVALID)


@main.command()
def schema() -> None:
    """Print the JSON Schema of routes.toml, for editors."""
    from gateway.config.json_schema import json_schema

    print_json(json_schema())


def import_httpx() -> None:
    """Import httpx without its command line, which takes as long to load as the rest of it."""
    # None stands for a module that there is not; afterwards there is again.
    command_line = "httpx._main"
    if "httpx" not in sys.modules:
        sys.modules[command_line] = None  # type: ignore[assignment]
        import httpx  # noqa: F401

        del sys.modules[command_line]


def load_or_exit(path: str) -> Config:
    """The configuration in ``path``; prints every problem and exits with 1 when it is not valid."""
    from gateway.config.load import load_config
    from gateway.config.problems import ConfigError
    from gateway.routes import table_warnings

    try:
        return load_config(Path(path), extra_warnings=table_warnings)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem_line(problem), err=True)
        errors = len([problem for problem in error.problems if problem.severity == "error"])
        if errors > 1:
            click.echo(f"{path}: {errors} problems", err=True)
        sys.exit(EXIT_INVALID)


def print_warnings(config: Config) -> None:
    """The warnings of a valid configuration, on standard error."""
    for problem in config.warnings:
        click.echo(problem_line(problem), err=True)


def problem_line(problem: Problem) -> str:
    """``file:line:column: key: message``, on one line whatever stands in the file."""
    if problem.severity == "warning":
        import dataclasses

        problem = dataclasses.replace(problem, message=f"warning: {problem.message}")
    return one_line(str(problem))


def server_overrides(bind: tuple[str, ...], workers: str | None) -> Mapping[str, Any]:
    """What the command line says instead of ``[server]``."""
    found: dict[str, Any] = {}
    if bind:
        from gateway.config.addresses import parse_bind

        try:
            found["bind"] = tuple(parse_bind(address) for address in bind)
        except ValueError as error:
            raise click.UsageError(f"--bind: {error}") from error
    if workers is not None:
        if workers != "auto" and not (workers.isdecimal() and workers.isascii() and int(workers) > 0):
            raise click.UsageError('--workers: must be a whole number from 1 up, or "auto"')
        found["workers"] = workers if workers == "auto" else int(workers)
    return found


def counted(count: int, noun: str) -> str:
    """``1 route``, ``2 routes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_json(value: Any) -> None:
    """Plain JSON on standard output, whatever the terminal."""
    click.echo(json.dumps(value, indent=2))


def show(renderable: RenderableType) -> None:
    """Text for people: fitted to a terminal, plain and on long lines when standard output is none."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(renderable)
        return
    console = Console(highlight=False, color_system=None, width=10_000)
    with console.capture() as capture:
        console.print(renderable)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters, so that it is one line of a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def fail(message: str) -> None:
    """One clear line for each problem on standard error, and exit status 1."""
    for line in message.splitlines():
        click.echo(f"gateway: {line}", err=True)
    sys.exit(EXIT_INVALID)
