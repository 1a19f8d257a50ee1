"""MLflow's UI without MLflow's assistant: `python -m rayloom.tracking.writer.ui_server URI ARTIFACTS HOST PORT`.

The assistant of the server runs a shell for whoever reaches it over loopback, which on a machine of several users is
everybody, and no setting turns it off. So MLflow's application is served through one that knows no such routes.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from mlflow.server import constants
from mlflow.server.handlers import initialize_backend_stores

from rayloom.redaction import redacted_output
from rayloom.tracking.location import known_uri

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_ASSISTANT = re.compile(r"/mlflow/assistant(/|$)")
_ARTIFACT_ROOT = "mlflow-artifacts:/"


def without_assistant(application: Application) -> Application:
    """Return an ASGI application that answers 404 to requests for the assistant, and passes the others on."""

    async def guarded(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not _ASSISTANT.search(scope["path"]):
            await application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"rayloom ui serves no assistant\n"})

    return guarded


def serve(uri: str, artifacts: str, host: str, port: int) -> None:
    """Serve the store `uri`, and as a URI the folder of its artifacts, until a signal ends this process."""
    # What `mlflow server` hands to its workers.
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: _ARTIFACT_ROOT,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    initialize_backend_stores(uri, uri, _ARTIFACT_ROOT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about the libraries that it uses
        from mlflow.server.fastapi_app import app  # it reads the variables when it is imported

    uvicorn.run(without_assistant(app), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    with redacted_output():
        serve(known_uri(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
