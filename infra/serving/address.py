"""Where the feature server listens."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address

from features.errors import SettingsError

BACKLOG = 2_048


@dataclass(frozen=True)
class Address:
    """An address of this machine by its number, and a port.

    >>> Address("127.0.0.1", 6566).loopback, Address("::", 6566).loopback
    (True, False)
    >>> Address("::1", 6566).url("https")
    'https://[::1]:6566'
    """

    host: str
    port: int

    @classmethod
    def resolve(cls, host: str, port: int = 0) -> Address:
        """The address that a host is; raises SettingsError where it is none."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SettingsError(
                f"serve_host {host!r} is no address: {error}; write one of this machine, like 127.0.0.1, or 0.0.0.0 "
                f"for all of them"
            ) from error
        return cls(str(found[0][4][0]), port)

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can ask there."""
        return ip_address(self.host).is_loopback

    def url(self, scheme: str) -> str:
        """The address as a URL without a path."""
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def bind(self) -> socket.socket:
        """A socket that listens there; raises SettingsError where it cannot."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"port {self.port} cannot be used at {self.host}: {error.strerror}; choose another --port"
            ) from error
