"""Hosts of their own on one machine: network namespaces, on wires that can be cut.

    this machine                                         host "asr0"
        10.64.7.1  <------- wire "postgres" ------->     10.64.7.2
        10.64.7.5  <------- wire "redis"    ------->     10.64.7.6

Each wire is a network of its own, so that a host can be parted from one server and not from
another. A cut wire is silent, as a dead switch is: what is sent into it is neither delivered nor
refused, and connections stay open at both ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from pyroute2 import IPRoute, NetNS, netns
from pyroute2.netlink.exceptions import NetlinkError

#: Two drills at once have addresses of their own: 256 for each of 2^12 process ids.
_FIRST = IPv4Address("10.64.0.0")
_EACH, _MANY = 256, 1 << 12
_PREFIX_LENGTH = 30
_NAMESPACES = Path("/run/netns")


class Network:
    """Hosts by name, each with a wire to every service, made and removed together."""

    def __init__(self, hosts: Sequence[str], services: Sequence[str]) -> None:
        self._hosts = list(hosts)
        self._services = list(services)

    def address(self, host: str, service: str) -> str:
        """Return the address at which a host finds a service; it is one of this machine's."""
        ours = _FIRST + _EACH * (os.getpid() % _MANY)
        return str(ours + 4 * self._wire(host, service) + 1)

    def addresses(self, service: str) -> list[str]:
        """Return every address that a service has to listen on."""
        return [self.address(host, service) for host in self._hosts]

    def prefix(self, host: str) -> list[str]:
        """Return the command that runs a program on a host."""
        return ["nsenter", f"--net={_NAMESPACES / _namespace(host)}", "--"]

    def cut(self, host: str, service: str) -> None:
        """Let nothing pass between a host and a service."""
        self._set_wire(host, service, "down")

    def mend(self) -> None:
        """Let everything pass again."""
        for host in self._hosts:
            for service in self._services:
                self._set_wire(host, service, "up")

    def start(self) -> None:
        """Make the hosts and their wires.

        Raises:
            OSError: network namespaces may not be made here, say without root.
        """
        self.stop()
        try:
            for host in self._hosts:
                netns.create(_namespace(host))
                self._connect(host)
        except NetlinkError as error:
            self.stop()
            raise OSError(error.code, f"no network of our own: {error}") from error

    def _connect(self, host: str) -> None:
        namespace = _namespace(host)
        with IPRoute() as here, NetNS(namespace) as there:
            _bring_up(there, "lo")
            for number, service in enumerate(self._services):
                near, far = self._near(host, service), f"eth{number}"
                peer = {"ifname": far, "net_ns_fd": namespace}
                here.link("add", ifname=near, kind="veth", peer=peer)
                ours = IPv4Address(self.address(host, service))
                _bring_up(here, near, ours)
                _bring_up(there, far, ours + 1)

    def stop(self) -> None:
        """Remove hosts and wires; nothing may run on them any more."""
        for host in self._hosts:
            # Wires first: the kernel takes its time to remove those of a namespace that is gone.
            with IPRoute() as here:
                for service in self._services:
                    for index in here.link_lookup(ifname=self._near(host, service)):
                        here.link("del", index=index)
            with suppress(OSError):  # it was never made, or not to its end
                netns.remove(_namespace(host))

    def _wire(self, host: str, service: str) -> int:
        return self._hosts.index(host) * len(self._services) + self._services.index(service)

    def _near(self, host: str, service: str) -> str:
        """Return the name of our end of a wire; the kernel takes 15 characters."""
        return f"cs{os.getpid()}-{self._wire(host, service)}"

    def _set_wire(self, host: str, service: str, state: str) -> None:
        with IPRoute() as here:
            (index,) = here.link_lookup(ifname=self._near(host, service))
            here.link("set", index=index, state=state)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _namespace(host: str) -> str:
    return f"callscribe-{os.getpid()}-{host}"


def _bring_up(where: Any, interface: str, address: IPv4Address | None = None) -> None:
    (index,) = where.link_lookup(ifname=interface)
    if address is not None:
        where.addr("add", index=index, address=str(address), prefixlen=_PREFIX_LENGTH)
    where.link("set", index=index, state="up")
