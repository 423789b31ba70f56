"""A WebSocket server that first tells each client what it saw of the request, then echoes.

The first message is {"path": ..., "headers": [[name, value], ...]}, names in lower case, duplicates kept. The first subprotocol
offered is accepted. When a client is gone, {"event": "closed", "code": N} is printed: 1006 means without a closing frame.
"""

import asyncio
import json
import signal

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import part


async def echo(connection: ServerConnection) -> None:
    request = connection.request
    headers = [[name.lower(), value] for name, value in request.headers.raw_items()]
    try:
        await connection.send(json.dumps({"path": request.path, "headers": headers}))
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # The code below says how.
    part.say({"event": "closed", "code": connection.close_code})


async def main(chosen) -> None:
    def first_offered(connection: ServerConnection, offered: list[str]) -> str | None:
        return offered[0] if offered else None

    async with serve(echo, chosen.host, chosen.port, select_subprotocol=first_offered) as server:
        part.ready("{}:{}".format(*server.sockets[0].getsockname()))
        # An orderly end tells each client so, with code 1001.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(part.parse(part.server_arguments(__doc__))))
