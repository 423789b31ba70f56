"""Calls grpc_echo_server.py over plaintext HTTP/2 and prints one JSON line per call.

The target is HOST:PORT or unix:/path. Exit codes: 0 every call ended as the server meant it; 1 some call got another status;
3 some call got UNAVAILABLE, which is what gRPC says of a connection that failed or broke.
"""

import json
import sys
import time

import grpc

import part

SERVICE = "/countersign.test.Echo/"


def main() -> int:
    parser = part.arguments(__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--call", choices=[*CALLS, "all"], default="all")
    parser.add_argument("--messages", type=int, default=3, help="of each stream")
    parser.add_argument("--interval", type=float, default=0.0, metavar="SECONDS", help="between the messages of a stream")
    parser.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    chosen = part.parse(parser)
    # A proxy named in the environment is not to stand between the test and the agent.
    channel = grpc.insecure_channel(chosen.target, options=[("grpc.enable_http_proxy", 0)])
    calls = list(CALLS) if chosen.call == "all" else [chosen.call]
    codes = [report(call, channel, chosen) for call in calls]
    if codes == [WANTED.get(call, "OK") for call in calls]:
        return part.DONE
    return part.BROKEN if "UNAVAILABLE" in codes else part.REFUSED


def report(name: str, channel: grpc.Channel, chosen) -> str:
    """Makes one call and prints how it ended; what came before an error is kept."""
    metadata = [tuple(pair.split("=", 1)) for pair in chosen.metadata]
    messages = []
    call = CALLS[name](channel, chosen, metadata)
    try:
        for message in call:
            if not messages:
                part.say({"event": "first_message", "call": name})
            messages.append(message.decode())
    except grpc.RpcError:
        pass  # The call itself holds code and details.
    trailing = {key: value if isinstance(value, str) else value.hex() for key, value in call.trailing_metadata() or ()}
    trailing["seen"] = json.loads(trailing.get("seen", "null"))
    code = call.code().name
    part.say({"call": name, "code": code, "details": call.details(), "messages": messages, "trailing_metadata": trailing})
    return code


# One message is a stream of one on the wire, so that the unary calls can be read like the others.
def unary(channel, chosen, metadata):
    return channel.unary_stream(SERVICE + "Unary")(b"hello", metadata=metadata)


def server_stream(channel, chosen, metadata):
    wish = {"messages": chosen.messages, "interval": chosen.interval}
    return channel.unary_stream(SERVICE + "ServerStream")(json.dumps(wish).encode(), metadata=metadata)


def bidirectional(channel, chosen, metadata):
    return channel.stream_stream(SERVICE + "Bidirectional")(spoken(chosen), metadata=metadata)


def spoken(chosen):
    for number in range(chosen.messages):
        yield f"message {number}".encode()
        time.sleep(chosen.interval)


def fail(channel, chosen, metadata):
    return channel.unary_stream(SERVICE + "Fail")(b"hello", metadata=metadata)


CALLS = {"unary": unary, "server-stream": server_stream, "bidirectional": bidirectional, "fail": fail}
WANTED = {"fail": "FAILED_PRECONDITION"}


if __name__ == "__main__":
    sys.exit(main())
