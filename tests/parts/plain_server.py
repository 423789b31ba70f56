"""A plain HTTP/1.1 server that tells what reached it.

    ANY  /echo-headers                  JSON: method, raw path, [name, value] headers as received, duplicates kept
    GET  /events?count=N&interval=S     server-sent events, data: 0 to N-1; a client that leaves early is reported on stdout
    POST /length                        JSON: bytes and sha256 of the body, which is read as it comes
    GET  /bytes/N                       N bytes
"""

import hashlib
import http.server
import json
import socket
import socketserver
import time
from urllib.parse import parse_qs, urlsplit

import part


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        route = urlsplit(self.path).path
        if route == "/events":
            self.events(parse_qs(urlsplit(self.path).query))
        elif route == "/length":
            digest, length = hashlib.sha256(), 0
            for piece in self.body():
                digest.update(piece)
                length += len(piece)
            self.json(200, {"length": length, "sha256": digest.hexdigest()})
        elif route.startswith("/bytes/"):
            self.whole(200, "application/octet-stream", bytes(int(route.removeprefix("/bytes/"))))
        else:
            # The body is read even if nobody wants it: the next request of the connection begins behind it.
            length = sum(map(len, self.body()))
            # `self.path` has been tidied up by then; the request line has not.
            raw_path = self.requestline.split(" ")[1]
            seen = {"method": self.command, "path": raw_path, "headers": self.headers.items(), "length": length}
            self.json(200 if route == "/echo-headers" else 404, seen)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def body(self):
        """Yields the request's body in pieces, whichever way its length is told."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self.pieces(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # Trailers, and the empty line behind them.
        else:
            yield from self.pieces(int(self.headers.get("content-length", 0)))

    def pieces(self, size: int):
        while size:
            piece = self.rfile.read1(min(size, 65536))
            if not piece:
                raise ConnectionError("the body ended early")
            size -= len(piece)
            yield piece

    def events(self, query: dict[str, list[str]]) -> None:
        count, interval = int(query.get("count", ["3"])[0]), float(query.get("interval", ["0"])[0])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(count):
            event = f"data: {number}\n\n".encode()
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            except ConnectionError:
                part.say({"event": "stream_aborted", "sent": number})
                self.close_connection = True
                return
            time.sleep(interval)
        self.wfile.write(b"0\r\n\r\n")
        part.say({"event": "stream_done", "sent": count})

    def json(self, status: int, value: object) -> None:
        self.whole(status, "application/json", json.dumps(value).encode())

    def whole(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass  # Standard output is the test's.


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = part.server_arguments(__doc__)
    parser.add_argument("--unix", metavar="PATH", help="listen on this socket instead")
    chosen = part.parse(parser)
    if chosen.unix:
        server, address = UnixServer(chosen.unix, Handler), f"unix:{chosen.unix}"
    else:
        server = TcpServer((chosen.host, chosen.port), Handler)
        # Header and body are two writes, and the second would wait for the peer's delayed acknowledgement.
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = "{}:{}".format(*server.server_address)
    part.ready(address)
    server.serve_forever()


if __name__ == "__main__":
    main()
