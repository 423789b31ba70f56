"""The proxies that are compared: how each is configured, started and ended.

Their configs are the files in contenders/, written as an operator would who cares for speed and for who calls.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_WITHIN = 20.0
END_WITHIN = 5.0


@dataclass(frozen=True)
class Contender:
    """One proxy in one shape. A variant changes only the hop between the two sides, so it is left out where there is none."""

    name: str
    config: str
    command: tuple[str, ...]
    hop: dict[str, str] = field(default_factory=dict)
    is_variant: bool = False


def known(agent: str) -> list[Contender]:
    envoy = (envoy_binary(), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path", "@CONFIG@")
    haproxy, nginx = ("haproxy", "-db", "-f", "@CONFIG@"), ("nginx", "-p", "@FOLDER@", "-c", "@CONFIG@")
    return [
        Contender("countersign", "countersign-{}.toml", (agent, "run", "--config", "@CONFIG@")),
        Contender("haproxy", "haproxy-{}.cfg", haproxy, {"HOP": ""}),
        Contender("haproxy, h2 hop", "haproxy-{}.cfg", haproxy, {"HOP": "alpn h2 proto h2"}, is_variant=True),
        Contender("nginx", "nginx-{}.conf", nginx),
        Contender("envoy", "envoy-{}.yaml", envoy, {"HOP": "http_protocol_options", "ALPN": "http/1.1"}),
        Contender("envoy, h2 hop", "envoy-{}.yaml", envoy, {"HOP": "http2_protocol_options", "ALPN": "h2"}, is_variant=True),
    ]


def envoy_binary() -> str:
    package = importlib.util.find_spec("envoy")
    places = package.submodule_search_locations if package else []
    return next((str(Path(place) / "_bin/envoy") for place in places), "envoy")


def versions(agent: str) -> list[str]:
    """The first line that each program says about itself."""
    asked = [[agent, "--version"], ["haproxy", "-v"], ["nginx", "-v"], [envoy_binary(), "--version"]]
    return [first_line(command) for command in asked]


def first_line(command: list[str]) -> str:
    try:
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20).stdout
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return said.strip().splitlines()[0].replace(command[0], Path(command[0]).name).strip()


class Started:
    """A program on one core. It is ended with this object, and by the kernel if the comparison itself dies."""

    def __init__(self, command: list[str], cpu: int, log: Path):
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(cpu), *command]
        with log.open("w") as output:
            self.process = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.log = log

    def wait_for(self, address: str, within: float = START_WITHIN) -> None:
        host, port = address.split(":")
        end = time.monotonic() + within
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"nothing listens on {address}: {self.log.read_text()[-400:].strip()}")

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def processes(self) -> list[int]:
        """Its process and all that come from it."""
        found, unseen = [], [self.process.pid]
        while unseen:
            found.append(unseen.pop())
            children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text()
            unseen.extend(int(child) for child in children.split())
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            for process in self.processes():
                os.kill(process, signal.SIGKILL)
            self.process.wait()


class Hop:
    """Both sides of a contender in an empty folder and on ports of their own. Nothing runs until a side is started."""

    def __init__(self, contender: Contender, certificates: Path, folder: Path, backend: str, cpu: int):
        shutil.rmtree(folder, ignore_errors=True)
        # Logs have a folder of their own, as on any host: a program that watches its config hears of everything beside it.
        (folder / "log").mkdir(parents=True)
        self.contender, self.folder, self.cpu = contender, folder, cpu
        self.inbound, self.outbound = free_address(), free_address()
        self.sides: list[Started] = []
        self.places = {"CERTIFICATES": str(certificates), "FOLDER": str(folder), **contender.hop}
        for name, address in (("BACKEND", backend), ("INBOUND", self.inbound), ("OUTBOUND", self.outbound)):
            self.places |= {name: address, f"{name}_PORT": address.split(":")[1]}

    def __enter__(self) -> "Hop":
        return self

    def __exit__(self, *_: object) -> None:
        for side in reversed(self.sides):
            side.stop()

    def start_inbound(self, under: tuple[str, ...] = ()) -> Started:
        return self.start("inbound", self.inbound, under)

    def start_outbound(self) -> Started:
        return self.start("outbound", self.outbound)

    def start(self, side: str, address: str, under: tuple[str, ...] = ()) -> Started:
        name = self.contender.config.format(side)
        config = self.folder / name
        places = self.places | {"CONFIG": str(config), "CONTROL": free_address()}
        config.write_text(filled((HERE / "contenders" / name).read_text(), places))
        command = [filled(part, places) for part in (*under, *self.contender.command)]
        started = Started(command, self.cpu, self.folder / f"{side}.log")
        self.sides.append(started)
        started.wait_for(address)
        return started

    def processes(self) -> list[int]:
        return [process for side in self.sides for process in side.processes()]


def filled(text: str, places: dict[str, str]) -> str:
    return re.sub("@([A-Z_]+)@", lambda match: places[match[1]], text)


next_port = 20000


def free_address() -> str:
    """A port that nobody listens on, below those that the kernel gives to connections. None comes twice: connections of a
    run before may still linger."""
    global next_port
    while True:
        next_port = 20000 + (next_port + 1) % 9000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", next_port))
            except OSError:
                continue
        return f"127.0.0.1:{next_port}"
