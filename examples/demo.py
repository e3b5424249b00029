"""Starts the demo services and the gateway in front of them; Ctrl-C stops everything it started.

python -m examples.demo [routes.toml]
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

SERVICES = {
    9001: ["examples.shop", "--name", "shop-1"],
    9002: ["examples.shop", "--name", "shop-2"],
    9003: ["examples.users"],
    9004: ["examples.stream"],
}
START_TIMEOUT_S = 30.0

TO_TRY = """
The gateway answers on {base}. In another terminal:

  routing       curl {base}/
  balancing     curl {base}/shop/whoami {base}/shop/whoami {base}/shop/whoami
  failing over  kill {shop_pid}   (shop-1; then ask again: no request fails)
  caching       curl -i {base}/shop/products/1   (twice; look at Cache-Status and Age)
  compression   curl -i --compressed {base}/shop/products -o /dev/null -D -
  rewriting     curl -i {base}/users/login   (the Location names the gateway, not the service)
  headers       curl {base}/users/headers   (what the service sees of you)
  streaming     curl -N {base}/stream/events
  uploading     head -c 50000000 /dev/zero | curl -T - {base}/stream/upload
  in a browser  {base}/stream/
  explaining    {python} -m gateway explain {base}/shop/products/1

Edit {config} while it runs: a change takes effect at once. Ctrl-C stops everything.
"""


def main() -> int:
    """Run until interrupted; the exit status is 1 when something fails to start."""
    config = sys.argv[1] if len(sys.argv) > 1 else "routes.toml"
    try:
        host, port = gateway_address(config)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except StartFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    busy = [port for port in SERVICES if is_listening("127.0.0.1", port)]
    if busy:
        print(f"demo: port {busy[0]} is in use already: stop what listens there and try again", file=sys.stderr)
        return 1
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, raise_interrupt))
        try:
            services = [
                stack.enter_context(running([*module, "--port", str(number)])) for number, module in SERVICES.items()
            ]
            for number, service in zip(SERVICES, services, strict=True):
                wait_until_listening("127.0.0.1", number, service)
            gateway = stack.enter_context(running(["gateway", "run", config]))
            wait_until_listening(host, port, gateway)
            base = f"http://{host}:{port}"
            print(TO_TRY.format(base=base, shop_pid=services[0].pid, config=config, python=sys.executable), flush=True)
            return gateway.wait()
        except KeyboardInterrupt:
            print("\ndemo: stopping", file=sys.stderr)
            return 0
        except StartFailed as failure:
            print(f"demo: {failure}", file=sys.stderr)
            return 1


class StartFailed(Exception):
    """Something did not come up; its own message stands above."""


def raise_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def gateway_address(config: str) -> tuple[str, int]:
    """The first TCP address that ``config`` binds. Raises StartFailed, and ValueError when it is not valid."""
    from gateway import load_config

    for bind in load_config(config).server.bind:
        if not bind.path:
            return bind.host.replace("0.0.0.0", "127.0.0.1"), bind.port
    raise StartFailed(f"{config} binds no TCP address")


@contextlib.contextmanager
def running(module: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process in a session of its own, so that Ctrl-C reaches this script alone."""
    process = subprocess.Popen([sys.executable, "-m", *module], start_new_session=True, env=dict(os.environ))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def wait_until_listening(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when something accepts connections; raises StartFailed when ``process`` ends first or time runs out."""
    end = time.monotonic() + START_TIMEOUT_S
    while not is_listening(host, port):
        if process.poll() is not None:
            raise StartFailed(f"the process for {host}:{port} ended with status {process.returncode}")
        if time.monotonic() > end:
            raise StartFailed(f"nothing answers on {host}:{port} after {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
