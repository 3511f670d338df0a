"""The feature server as a process: uvicorn over the application, one worker or several."""

from __future__ import annotations

import sys

import uvicorn

from features.errors import SettingsError
from infra.loopback import serve
from infra.serving.app import create
from infra.serving.protocol import OneWriteProtocol
from infra.settings import LOOPBACK, Settings, apply_isolation, load_settings

_APP = "infra.serving.app:create"


def run(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve the home's features until Ctrl-C; several workers share the port, and one that dies is started anew.

    Raises SettingsError for an address that others can reach: the server knows no keys yet.
    """
    if host not in (LOOPBACK, "localhost"):
        raise SettingsError(f"address {host!r} can be reached by others, who would need no key: use {LOOPBACK}")
    apply_isolation(settings)  # workers load the settings anew
    uvicorn.run(
        _APP,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
        http=OneWriteProtocol,
        proxy_headers=False,
        ws="none",
    )


def main() -> None:
    """Serve on the socket inherited from `infra.supervisor`."""
    apply_isolation(load_settings())
    serve(create(), sys.argv[1:])


if __name__ == "__main__":
    main()
