"""What every part here has in common: its command line, its bound in time, and the lines it prints."""

import argparse
import json
import signal
import sys

# Exit codes of the callers. Argument errors are 2, by argparse.
DONE = 0
REFUSED = 1  # the other side answered, with an error status
BROKEN = 3  # the connection could not be made, or was ended by the other side


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--limit", type=int, default=60, metavar="SECONDS", help="the program is ended by SIGALRM after this time (default: 60)"
    )
    return parser


def server_arguments(description: str) -> argparse.ArgumentParser:
    parser = arguments(description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one: `ready` tells which")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parsed = parser.parse_args()
    # No handler: the kernel ends the process even while C code holds the interpreter, and even if the test is long dead.
    signal.alarm(parsed.limit)
    # The test's end is an orderly one: threads are joined and sockets closed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))
    return parsed


def say(value: object) -> None:
    print(json.dumps(value), file=sys.__stdout__, flush=True)


def ready(address: str) -> None:
    """Tells the test that connections are answered from now on, and where: 127.0.0.1:PORT or unix:/path."""
    print("ready", address, file=sys.__stdout__, flush=True)
