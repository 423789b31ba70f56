"""An OTLP/HTTP collector. A request is read by the protocol's own definitions, which refuse a key that they do not know.

Prints a JSON line for each record: its name, severity, body, and attributes.
"""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from part import parse, ready, say, server_arguments


def plain(value) -> object:
    """An AnyValue as JSON has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


def told(record) -> dict:
    return {
        "name": record.event_name,
        "time": record.time_unix_nano,
        "severity": record.severity_number,
        "body": plain(record.body),
        "attributes": {attribute.key: plain(attribute.value) for attribute in record.attributes},
    }


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    unavailable = 0
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if Collector.unavailable > 0:
            Collector.unavailable -= 1
            return self.answer(503, {})
        if Collector.refuse or self.path != "/v1/logs" or self.headers["content-type"] != "application/json":
            return self.answer(400, {"message": f"{self.path} {self.headers['content-type']}"})
        request = json_format.Parse(body, ExportLogsServiceRequest())
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    say(told(record))
        self.answer(200, {"partialSuccess": {}})

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def main() -> None:
    parser = server_arguments(__doc__)
    parser.add_argument("--unavailable", type=int, default=0, metavar="N")
    parser.add_argument("--refuse", action="store_true")
    parsed = parse(parser)
    Collector.unavailable, Collector.refuse = parsed.unavailable, parsed.refuse
    server = HTTPServer((parsed.host, parsed.port), Collector)
    ready(f"{parsed.host}:{server.server_address[1]}")
    server.serve_forever()


if __name__ == "__main__":
    main()
