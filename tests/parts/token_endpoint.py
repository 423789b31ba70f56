"""An OAuth server: it gives out tokens to clients and in exchange for tokens (RFC 6749, RFC 8693), and tells about them (RFC 7662).

    GET  /.well-known/oauth-authorization-server   its metadata (RFC 8414)
    POST /token, /mtls/token                       a token; the client shows a secret, or its certificate
    POST /introspect                               about tokens that begin with "opaque-": active, subject is the rest; it fails over
                                                   "strange-500" and "strange-429", and hangs up on "strange-end"
    POST /redirected                               what a client got that has followed a redirect

Each question is reported on stdout. The first line of the file --mode says how /token answers, looked at each time: "ok",
"expires N", "error STATUS CODE", "redirect" (to /redirected), "hang", "end" (it hangs up), "big", "text TEXT", or "for TOKEN" and one of them: others are
answered as by "ok".
"""

import base64
import http.server
import json
import socket
import socketserver
import ssl
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus

import part

CLIENT, SECRET = "agent one", "s3cret:& more"
CLIENT_CREDENTIALS = "client_credentials"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        here = f"https://localhost:{self.server.server_address[1]}"
        if self.path != "/.well-known/oauth-authorization-server":
            return self.json(404, {})
        self.json(200, {
            "issuer": here,
            "token_endpoint": f"{here}/token",
            "jwks_uri": f"{here}/jwks",
            "mtls_endpoint_aliases": {"token_endpoint": f"{here}/mtls/token"},
        })

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        fields = parse_qsl(body, keep_blank_values=True, strict_parsing=bool(body))
        known = dict(fields)
        if self.path == "/introspect":
            subject = known.get("token", "").removeprefix("opaque-")
            active = known.get("token", "").startswith("opaque-")
            answer = {"active": True, "sub": subject, "client_id": "app", "exp": int(time.time()) + 600}
            part.say({"event": "introspection"})
            if known.get("token", "").startswith("strange-"):
                how = known["token"].removeprefix("strange-")
                self.close_connection = how == "end"
                return self.connection.shutdown(socket.SHUT_RDWR) if how == "end" else self.json(int(how), {})
            return self.json(200, answer if active else {"active": False})
        client = self.client(known)
        part.say({"event": "question", "path": self.path, "client": client, "fields": fields, "serial": self.serial()})
        word, *rest = self.mode(known)
        if self.path == "/redirected":
            return self.json(200, {"access_token": "redirected", "token_type": "Bearer"})
        if word == "end":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if word == "big":
            return self.whole(200, b" " * 300_000)
        if word == "hang":
            time.sleep(60)
        if word == "redirect":
            self.send_response(307)
            self.send_header("Location", f"https://localhost:{self.server.server_address[1]}/redirected")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if word == "error":
            return self.json(int(rest[0]), {"error": rest[1]})
        if word == "text":
            return self.whole(200, " ".join(rest).encode())
        if client is None:
            return self.json(401, {"error": "invalid_client"})
        self.give(known, int(rest[0]) if word == "expires" else 600)

    def mode(self, known: dict[str, str]) -> list[str]:
        mode = Path(self.server.mode).read_text().splitlines()[0]
        if mode.startswith("for "):
            _, whose, mode = mode.split(" ", 2)
            mode = mode if known.get("subject_token") == whose else "ok"
        return mode.split(" ", 2)

    def give(self, known: dict[str, str], expires: int) -> None:
        number = next(self.server.numbers)
        answer = {"token_type": "Bearer", "expires_in": expires}
        match known.get("grant_type"):
            case "client_credentials":
                answer |= {"access_token": f"own-{number}"}
            case str(grant) if grant == TOKEN_EXCHANGE:
                if known.get("subject_token_type") != ACCESS_TOKEN or "refused" in known["subject_token"]:
                    return self.json(400, {"error": "invalid_grant"})
                subject = subject_of(known["subject_token"])
                answer |= {"access_token": f"for-{subject}-{number}", "issued_token_type": ACCESS_TOKEN}
            case _:
                return self.json(400, {"error": "unsupported_grant_type"})
        self.json(200, answer)

    def client(self, known: dict[str, str]) -> str | None:
        """Who asks, if that is proved: by the secret, or by the certificate that belongs to the name."""
        scheme, _, credentials = self.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            name, _, secret = base64.b64decode(credentials).decode().partition(":")
            return CLIENT if (unquote_plus(name), unquote_plus(secret)) == (CLIENT, SECRET) else None
        uris = [value for kind, value in self.certificate().get("subjectAltName", ()) if kind == "URI"]
        return uris[0] if uris and known.get("client_id") == CLIENT else None

    def certificate(self) -> dict:
        return self.connection.getpeercert() or {}

    def serial(self) -> str | None:
        return self.certificate().get("serialNumber")

    def json(self, status: int, value: object) -> None:
        self.whole(status, json.dumps(value).encode())

    def whole(self, *answer) -> None:
        status, content = answer
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass  # Standard output is the test's.


def subject_of(token: str) -> str:
    """Of an opaque token the rest of it, of a signed one (which is not verified here) its subject."""
    if token.count(".") != 2:
        return token.removeprefix("opaque-")
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, *_) -> None:
        pass  # A client that does not believe this server goes away in the handshake.


def main() -> None:
    parser = part.server_arguments(__doc__)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--clients", required=True, help="who signs the certificates of clients")
    parser.add_argument("--mode", required=True, help="a file that says how to answer")
    chosen = part.parse(parser)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chosen.certificate, chosen.key)
    context.load_verify_locations(chosen.clients)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = Server((chosen.host, chosen.port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.mode, server.numbers = chosen.mode, iter(range(1, 1_000_000))
    part.ready("{}:{}".format(*server.server_address))
    server.serve_forever()


if __name__ == "__main__":
    main()
