"""The feature server as a process: uvicorn over the application, one worker or several."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import uvicorn
from uvicorn.supervisors import Multiprocess

from features.errors import SettingsError
from infra.loopback import end_with_parent
from infra.serving.access import refuse_without_keys
from infra.serving.address import BACKLOG, Address
from infra.serving.app import FeatureServer, create
from infra.serving.protocol import ImmediateProtocol
from infra.settings import LOOPBACK, PREFIX, Settings, apply_isolation, load_settings

_HOST = f"{PREFIX}SERVE_HOST"


def run(settings: Settings, port: int, workers: int, bound: Callable[[str], None]) -> None:
    """Serve the home's features until Ctrl-C; several workers share the port, and one that dies is started anew.

    ``bound`` is told the URL once the port is ours: from then on requests wait instead of failing. Raises SettingsError
    where it is taken, and where others than this machine could ask without a key.
    """
    address, tls = Address.resolve(settings.serve_host, port), _tls(settings)
    refuse_without_keys(settings)
    apply_isolation(settings, {_HOST: address.host})  # workers load the settings anew
    with address.bind() as listener:
        bound(address.url("https" if tls else "http"))
        _serve(listener, workers, tls)


def main() -> None:
    """Serve on the loopback socket inherited from `infra.supervisor`, until that is gone."""
    settings = load_settings(serve_host=LOOPBACK)
    refuse_without_keys(settings)
    apply_isolation(settings, {_HOST: LOOPBACK})
    end_with_parent()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        _serve(listener)


class Tls(NamedTuple):
    """The files with which TLS is spoken."""

    certificate: Path
    key: Path


def _tls(settings: Settings) -> Tls | None:
    """The files with which TLS is to be spoken, if it is; raises SettingsError where it cannot be."""
    certificate, key = settings.serve_tls_certificate, settings.serve_tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        there, lacks = ("certificate", "key") if key is None else ("key", "certificate")
        raise SettingsError(f"serve_tls_{there} is set, but not serve_tls_{lacks}: set both, or neither")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"TLS is not possible with serve_tls_certificate {str(certificate)!r} and serve_tls_key {str(key)!r}: "
            f"{error}; name files in PEM that belong together, the key without a password"
        ) from error
    return Tls(certificate, key)


def configured(app: FeatureServer | str, workers: int = 1, tls: Tls | None = None) -> uvicorn.Config:
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
        backlog=BACKLOG,
        log_level="warning",
        access_log=False,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


def _serve(listener: socket.socket, workers: int = 1, tls: Tls | None = None) -> None:
    config = configured(f"{create.__module__}:{create.__name__}", workers, tls)
    if workers == 1:
        uvicorn.Server(config).run(sockets=[listener])
    else:
        Multiprocess(config, sockets=[listener]).run()


if __name__ == "__main__":
    main()
