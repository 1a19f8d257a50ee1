"""The command `rayloom ui`: MLflow's server on the run store."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path


def ui_command(options: argparse.Namespace) -> int:
    from rayloom.config.names import output_folder

    output = output_folder(options.output)
    command = server_command(output, options.host, options.port)
    _check_port(options.host, options.port)
    _tell_who_may_look(options.host)
    address = f"http://{options.host}:{options.port}"
    print(f"{address} shows the runs; end it with Ctrl-C", flush=True)
    for name, link in _links(output, address).items():
        print(f"  {name}: {link}", flush=True)
    # The server's background jobs (evaluation of language models) would start processes of their own.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(command[0], command)


def _links(output: Path, address: str) -> dict[str, str]:
    """Return a link to the runs of each experiment, where the store is a file."""
    from rayloom.database_urls import sqlite_path
    from rayloom.tracking.location import resolve_uri
    from rayloom.tracking.views import experiment_links

    database = sqlite_path(resolve_uri(None, output))
    return {} if database is None else experiment_links(database, address)


def server_command(output: Path, host: str, port: int) -> list[str]:
    """Return the command that serves the run store: MLFLOW_TRACKING_URI, else the one in the folder `output`.

    Raises UserError where there is nothing to serve or where a server has the store already.
    """
    from rayloom.database_urls import is_sqlite, sqlite_path
    from rayloom.errors import UserError
    from rayloom.redaction import has_secret, redacted_url
    from rayloom.tracking.location import TRACKING_URI, resolve_uri

    uri = resolve_uri(None, output)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI names a server that has its own UI: open {uri} in a browser")
    database = sqlite_path(uri) if is_sqlite(uri) else None
    if database is not None and not database.is_file():
        raise UserError(f"there is no run store {database}: train first, or name the folder with --output")
    if has_secret(uri):  # the command line is for all to see
        os.environ[TRACKING_URI] = uri
    artifacts = (output.absolute() / "mlartifacts").as_uri()
    server = [sys.executable, "-P", "-m", "rayloom.tracking.writer.ui_server"]
    return [*server, redacted_url(uri), artifacts, host, str(port)]


def _tell_who_may_look(host: str) -> None:
    """Say what it means to listen elsewhere than on loopback."""
    if host in ("localhost", "::1") or host.startswith("127."):
        return
    print(
        f"--host {host}: whoever reaches this address can read, change and delete the runs, without a password; "
        f"better listen on 127.0.0.1 and forward the port through ssh",
        file=sys.stderr,
        flush=True,
    )


def _check_port(host: str, port: int) -> None:
    """Raise UserError where the server could not listen; its own message would be a traceback."""
    from rayloom.errors import UserError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = f"choose another, as rayloom ui --port {port + 1}"
            raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); {remedy}") from None
        except OverflowError:
            raise UserError(f"--port: {port} is no port; choose one up to 65535") from None
