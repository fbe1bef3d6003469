"""An HTTP proxy on loopback that leads the hosts of Google Cloud to fakes.

With it in `https_proxy` the code under test runs as it is, with its real addresses. Any other host is refused
and noted, so that nothing leaves the machine unseen.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Mapping
from socketserver import StreamRequestHandler, ThreadingTCPServer

SILENT = 0
"""Instead of a port: the connection is taken, and nothing is ever said on it."""


class ConnectProxy(ThreadingTCPServer):
    """Relays what clients send through CONNECT.

    Attributes:
        ports: Where each host is led, or all hosts below `*.DOMAIN`; nothing need listen there.
        refused: The hosts that were asked for and are not among them.
    """

    daemon_threads = True

    def __init__(self, ports: Mapping[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.ports = ports
        self.refused: list[str] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Tunnel(StreamRequestHandler):
    server: ConnectProxy
    rbufsize = 0

    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        host = target.rpartition(":")[0]
        if host not in self.server.ports:
            host = f"*.{host.partition('.')[2]}"
        if host not in self.server.ports:
            self.server.refused.append(target.rpartition(":")[0])
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        port = self.server.ports[host]
        if port == SILENT:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.server.closing.wait()
            return
        try:
            backend = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        with backend:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            relay(self.connection, backend)


def relay(one: socket.socket, other: socket.socket) -> None:
    """Hand on what either of them sends, until one is closed."""
    while True:
        for source in select.select([one, other], [], [])[0]:
            try:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)
            except OSError:
                return
