"""Sends messages to websocket_echo_server.py and prints each answer as a JSON line; the first holds the headers it saw.

`--hold` keeps the connection after the last answer, and prints {"event": "holding"} first. If the peer ends the connection, the
line `closed CODE` is printed, 1006 where no closing frame came. Exit codes: 0 all answered and closed by us; 1 the upgrade was
refused; 3 the connection failed or was ended by the peer.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import part


async def main(chosen) -> int:
    # No proxy from the environment is to stand between the test and the agent.
    try:
        connection = await connect(chosen.url, proxy=None, subprotocols=chosen.subprotocol)
    except InvalidStatus as refused:
        response = refused.response
        content_type, body = response.headers.get("content-type"), (response.body or b"").decode(errors="replace")
        part.say({"error": "status", "status": response.status_code, "content_type": content_type, "body": body})
        return part.REFUSED
    except Exception as error:
        part.say({"error": "connection", "kind": type(error).__name__, "message": str(error)})
        return part.BROKEN
    try:
        await talk(connection, chosen)
        await connection.close()
        return part.DONE
    except ConnectionClosed:
        print("closed", connection.close_code, flush=True)
        return part.BROKEN


async def talk(connection, chosen) -> None:
    part.say({"subprotocol": connection.subprotocol, **json.loads(await connection.recv())})
    for number in range(chosen.messages):
        # One text and one binary message by turns, of a size that needs more than one frame header form.
        sent = f"message {number} " + "x" * chosen.size
        await connection.send(sent if number % 2 == 0 else sent.encode())
        answer = await connection.recv()
        part.say({"message": number, "type": type(answer).__name__, "intact": answer in (sent, sent.encode())})
    if chosen.hold:
        part.say({"event": "holding"})
        try:
            # Nothing is to come: what ends the wait early is the end of the connection.
            await asyncio.wait_for(connection.recv(), timeout=chosen.hold)
        except TimeoutError:
            pass


if __name__ == "__main__":
    parser = part.arguments(__doc__)
    parser.add_argument("--url", required=True, help="ws://127.0.0.1:PORT/path")
    parser.add_argument("--messages", type=int, default=2)
    parser.add_argument("--size", type=int, default=0, metavar="BYTES", help="added to each message")
    parser.add_argument("--hold", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--subprotocol", action="append", help="may be repeated")
    sys.exit(asyncio.run(main(part.parse(parser))))
