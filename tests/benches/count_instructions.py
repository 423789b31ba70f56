"""Counts the instructions of the inbound side for one request. Started by `instructions`.

One connection asks, always one request at a time, so that every request wakes the agent once and the count does not depend
on how busy the machine is. What starts and warms up is counted by itself and left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import contenders
from callgrind import Profile
from contenders import Hop, Started

WARM_UP = 500
REQUESTS = 1000
ROUNDS = 5

# Rounds that differ by more than this share of their median are not to be relied on.
SPREAD_MAX = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/benches/instructions", description=__doc__)
    for name in ("--agent", "--load", "--folder"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = count(options)
    median = statistics.median(rounds)
    sys.stderr.write(f"instructions per request in {ROUNDS} rounds of {REQUESTS}: {', '.join(map(str, rounds))}\n")
    if max(rounds) - min(rounds) > SPREAD_MAX * median:
        sys.exit(f"the rounds differ by more than {SPREAD_MAX:.0%}: no number")
    print(median)


def count(options: argparse.Namespace) -> list[int]:
    folder = Path(options.folder)
    certificates = folder / "certificates"
    subprocess.run([options.load, "certificates", certificates], check=True)
    cpu = min(os.sched_getaffinity(0))
    address = contenders.free_address()
    agent = contenders.known(options.agent)[0]
    with (
        Started([options.load, "backend", address], cpu, folder / "backend.log") as backend,
        Hop(agent, certificates, folder / "contender", address, cpu) as hop,
    ):
        backend.wait_for(address)
        profile = Profile(hop.folder / "callgrind.out")
        inbound = hop.start_inbound(under=profile.under())
        hop.start_outbound()
        ask(options, hop, WARM_UP)
        profile.dump(inbound.process.pid)
        return [count_round(options, hop, inbound, profile) for _ in range(ROUNDS)]


def count_round(options: argparse.Namespace, hop: Hop, inbound: Started, profile: Profile) -> int:
    ask(options, hop, REQUESTS)
    return round(profile.dump(inbound.process.pid) / REQUESTS)


def ask(options: argparse.Namespace, hop: Hop, requests: int) -> None:
    load = [options.load, "requests", "--to", hop.outbound, "--connections", "1", "--count", str(requests)]
    subprocess.run(load, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
