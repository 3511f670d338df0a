"""The feature server as a process: uvicorn over the application, one worker or several."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from features.errors import SettingsError
from infra.loopback import end_with_parent
from infra.serving.app import FeatureServer, create
from infra.serving.protocol import ImmediateProtocol
from infra.settings import LOOPBACK, Settings, apply_isolation, load_settings

_BACKLOG = 2_048


def run(settings: Settings, port: int, workers: int, bound: Callable[[], None]) -> None:
    """Serve the home's features until Ctrl-C; several workers share the port, and one that dies is started anew.

    On this machine alone, for who asks needs no key. ``bound`` is called once the port is ours: from then on requests
    wait instead of failing. Raises SettingsError where it is taken.
    """
    apply_isolation(settings)  # workers load the settings anew
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(f"port {port} cannot be used: {error.strerror}; choose another with --port") from error
    with listener:
        bound()
        _serve(listener, workers)


def main() -> None:
    """Serve on the socket inherited from `infra.supervisor`, until that is gone."""
    apply_isolation(load_settings())
    end_with_parent()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        _serve(listener)


def configured(app: FeatureServer | str, workers: int = 1) -> uvicorn.Config:
    """How uvicorn is to serve an application, or what "module:function" makes in each worker.

    Nothing may wrap the application: the protocol asks it for what is answered at once.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=ImmediateProtocol,
        ws="none",
        proxy_headers=False,
        workers=workers,
        backlog=_BACKLOG,
        log_level="warning",
        access_log=False,
    )


def _serve(listener: socket.socket, workers: int = 1) -> None:
    config = configured(f"{create.__module__}:{create.__name__}", workers)
    if workers == 1:
        uvicorn.Server(config).run(sockets=[listener])
    else:
        Multiprocess(config, sockets=[listener]).run()


if __name__ == "__main__":
    main()
