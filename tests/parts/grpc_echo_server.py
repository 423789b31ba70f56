"""A gRPC service without generated code: messages are plain bytes, service `countersign.test.Echo`.

Unary answers the message. ServerStream answers {"messages": N, "interval": SECONDS} with "0" to "N-1". Bidirectional answers
each message as it comes. Fail answers an error status with details. Every call's trailing metadata holds `seen`: a JSON list of
[key, value] of the request metadata, in the order received.
"""

import json
import threading
import time
from concurrent import futures

import grpc

import part

# Percent signs and non-ASCII letters are escaped in the trailer grpc-message, where a careless proxy spoils them.
FAILURE_DETAILS = "half of 100% – done"


def tell_what_was_seen(context: grpc.ServicerContext) -> None:
    seen = [[key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()]
    context.set_trailing_metadata((("seen", json.dumps(seen)), ("echo-bin", b"\x00\xff")))


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    tell_what_was_seen(context)
    return request


def server_stream(request: bytes, context: grpc.ServicerContext):
    tell_what_was_seen(context)
    wish = json.loads(request)
    for number in range(wish["messages"]):
        if not context.is_active():
            part.say({"event": "stream_aborted", "sent": number})
            return
        yield str(number).encode()
        time.sleep(wish["interval"])


def bidirectional(requests, context: grpc.ServicerContext):
    tell_what_was_seen(context)
    yield from requests


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    tell_what_was_seen(context)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, FAILURE_DETAILS)


def main() -> None:
    parser = part.server_arguments(__doc__)
    parser.add_argument("--unix", metavar="PATH", help="listen on this socket instead")
    chosen = part.parse(parser)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("countersign.test.Echo", handlers),))
    address = f"unix:{chosen.unix}" if chosen.unix else f"{chosen.host}:{chosen.port}"
    port = server.add_insecure_port(address)
    server.start()
    part.ready(address if chosen.unix else f"{chosen.host}:{port}")
    try:
        threading.Event().wait()
    finally:
        server.stop(grace=None)


if __name__ == "__main__":
    main()
