"""A network namespace from which some ports of this machine's loopback can be reached, and nothing else."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Sequence
from socketserver import BaseRequestHandler, ThreadingTCPServer

from tests.fakes.connect_proxy import relay

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


class Network:
    """A namespace with a loopback of its own, on which each of the ports leads to that of this machine.

    Attributes:
        path: What `nsenter --net` takes, as long as this process lives and the network is not closed.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._doors: list[_Door] = []
        self._listeners: list[socket.socket] = []
        # A thread's namespace is its own, and a socket stays in the one that it was made in.
        maker = threading.Thread(target=self._make, args=(ports,))
        maker.start()
        maker.join()
        for listener in self._listeners:
            self._doors.append(_Door(listener))
        self.path = f"/proc/{os.getpid()}/fd/{self._namespace}"

    def close(self) -> None:
        for door in self._doors:
            door.shutdown()
            door.server_close()
        os.close(self._namespace)

    def _make(self, ports: Sequence[int]) -> None:
        enter_new_network()
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._listeners = [socket.create_server(("127.0.0.1", port)) for port in ports]


def enter_new_network() -> None:
    """Give the calling thread a network of its own, with a loopback that is up.

    Raises:
        OSError: It may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


class _Door(ThreadingTCPServer):
    """Takes what comes to a socket of the namespace to the same port of this machine."""

    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Passage, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Passage(BaseRequestHandler):
    server: _Door

    def handle(self) -> None:
        with socket.create_connection(self.server.server_address[:2]) as backend:
            relay(self.request, backend)
