"""Measures what each way to decide on a request costs. Started by `decisions`.

`paths` and `rules` count instructions by callgrind, one request at a time, so that they do not depend on how busy the machine is.
`cpu` takes the agent's CPU time over many requests on one kept connection. `flood` shows unknown API keys while known callers ask.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import contenders
from callgrind import Profile, control
from contenders import Started
from decision_sites import PATHS, Rounds, Site, Way, machine_cpu_seconds, rule_ways

# The credentials whose CPU time has a bound, and what it is compared with.
TIMED = PATHS[:4]

WARM_UP_ROUNDS = 1
FLOOD_PER_SECOND = 10_000
KNOWN_PER_SECOND = 200

# Known callers ask this often before the flood: the last 8 MiB of audit lines are kept in memory, and have to be full before.
FILLING = 40_000


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    subprocess.run([options.load, "certificates", Path(options.folder) / "certificates"], check=True)
    backend_address = contenders.free_address()
    log = Path(options.folder) / "backend.log"
    with Started([options.load, "backend", backend_address], options.load_cpu, log) as backend:
        backend.wait_for(backend_address)
        for part in options.parts:
            PARTS[part](options, backend_address)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/benches/decisions", description=__doc__)
    for name in ("--agent", "--load", "--folder"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--parts", metavar="NAMES", help="some of " + ",".join(PARTS))
    parser.add_argument("--repeats", type=int, metavar="COUNT", help="rounds of each (default: 3)")
    parser.add_argument("--quick", action="store_true", help="short rounds: to try it out, not to quote")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.counted, options.timed = (100, 2_000) if options.quick else (1_000, 20_000)
    options.sizes = (10, 100) if options.quick else (10, 1_000, 10_000)
    options.seconds = 4 if options.quick else 20
    options.parts = options.parts.split(",") if options.parts else list(PARTS)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        parser.error("two CPUs are needed: one for the agent, one for the load")
    options.load_cpu, options.agent_cpu = cpus[:2]
    return options


def count_paths(options: argparse.Namespace, backend: str) -> None:
    with Site(options, PATHS, backend, options.agent_cpu) as site:
        counted = counted_rounds(options, site)
    base = counted["mtls"]
    print(f"Instructions per request, median of {options.repeats} rounds of {options.counted}\n")
    print("| path | instructions | more than mTLS | rounds |\n|---|---|---|---|")
    for way in PATHS:
        rounds = counted[way.name]
        more = differences(rounds, base)
        print(f"| {way.title} | {statistics.median(rounds):,.0f} | {signed(more)} | {spread(rounds)} |")
    print(flush=True)
    keep(options, "paths", counted)


def counted_rounds(options: argparse.Namespace, site: Site) -> dict[str, list[float]]:
    """Every way in, one after the other, so that what changes with time meets all of them."""
    profile = Profile(site.folder / "callgrind.out")
    # A large config is read without being counted.
    site.start(profile.under("--instr-atstart=no"))
    control(site.process, "--instr=on")
    counted: dict[str, list[float]] = {way.name: [] for way in site.ways}
    for way in site.ways:
        with Rounds(site, way, options.counted, options.load_cpu) as rounds:
            for _ in range(WARM_UP_ROUNDS):
                rounds.ask()
            profile.dump(site.process)
            for _ in range(options.repeats):
                rounds.ask()
                counted[way.name].append(profile.dump(site.process) / options.counted)
    return counted


def time_paths(options: argparse.Namespace, backend: str) -> None:
    with Site(options, TIMED, backend, options.agent_cpu) as site:
        site.start()
        timed, others = timed_rounds(options, site)
    base = timed["mtls"]
    print(f"CPU time of the agent per request in microseconds, {options.repeats} rounds of {options.timed:,}; ", end="")
    print(f"the rest of the machine used {statistics.median(others):.2f} CPUs meanwhile\n")
    print("| path | median | more than mTLS in the same round: min / median / max |\n|---|---|---|")
    for way in TIMED:
        more = [here - there for here, there in zip(timed[way.name], base)]
        each = " / ".join(f"{value:+.2f}" for value in (min(more), statistics.median(more), max(more)))
        print(f"| {way.title} | {statistics.median(timed[way.name]):.2f} | {each} |")
    print(flush=True)
    keep(options, "cpu", timed | {"others": others})


def timed_rounds(options: argparse.Namespace, site: Site) -> tuple[dict[str, list[float]], list[float]]:
    """A B C A B C, each over its own kept connection."""
    timed: dict[str, list[float]] = {way.name: [] for way in site.ways}
    others = []
    connections = {way.name: Rounds(site, way, options.timed, options.load_cpu) for way in site.ways}
    try:
        for rounds in connections.values():
            rounds.ask()
        for _ in range(options.repeats):
            for name, rounds in connections.items():
                begin, machine, at = site.cpu_seconds(), machine_cpu_seconds(), time.monotonic()
                own = rounds.cpu_seconds()
                rounds.ask()
                used, elapsed = site.cpu_seconds() - begin, time.monotonic() - at
                others.append(max(0.0, machine_cpu_seconds() - machine - used - (rounds.cpu_seconds() - own)) / elapsed)
                timed[name].append(used / options.timed * 1e6)
    finally:
        for rounds in connections.values():
            rounds.__exit__()
    return timed, others


def count_rules(options: argparse.Namespace, backend: str) -> None:
    rows: dict[str, list[str]] = {}
    for size in options.sizes:
        ways = rule_ways(size)
        with Site(options, ways, backend, options.agent_cpu) as site:
            counted = counted_rounds(options, site)
        keep(options, f"rules {size}", counted)
        for way in ways:
            base = counted["one-when" if "condition" in way.title else "one"]
            cell = f"{statistics.median(counted[way.name]):,.0f}" if way.name.startswith("one") else signed(differences(counted[way.name], base))
            rows.setdefault(way.title, []).append(cell)
        print(f"{size:,} rules counted", file=sys.stderr, flush=True)
    print("Instructions per request: with one rule, and what a table of so many adds to that\n")
    print(f"| table | {' | '.join(f'{size:,}' for size in options.sizes)} |\n|---|{'---|' * len(options.sizes)}")
    for title, cells in rows.items():
        print(f"| {title} | {' | '.join(cells)} |")
    print(flush=True)


def flood(options: argparse.Namespace, backend: str) -> None:
    known, flooded = [way for way in PATHS if way.name in ("api-key", "mtls")], PATHS[1]
    with Site(options, PATHS, backend, options.agent_cpu) as site:
        site.start()
        with Rounds(site, flooded, FILLING, options.load_cpu) as filling:
            filling.ask()
        alone = watched(options, site, known, None)
        lines = len(site.audit_lines())
        during = watched(options, site, known, flooded)
        time.sleep(2)
        after = site.resident_kib()
        new = site.audit_lines(lines)
    about_unknown = [line for line in new if line.get("reason") == "key_unknown"]
    left_out = sum(line.get("omitted", 0) for line in about_unknown)
    print(f"A flood of unknown API keys for {options.seconds} s, {FLOOD_PER_SECOND:,} a second asked for\n")
    print("| | known callers alone | during the flood |\n|---|---|---|")
    for way in known:
        cells = [f"{run[way.name]['answers'].get('200', 0):,} of {KNOWN_PER_SECOND * options.seconds:,}" for run in (alone, during)]
        print(f"| known callers by {way.title}: answered with 200, of those that were to be asked | {' | '.join(cells)} |")
    told = during["flood"]
    print(f"| unknown keys answered | | {told['done']:,} ({told['done'] / told['seconds']:,.0f}/s): {told['answers']} |")
    cpu = [run["cpu"] / run["seconds"] for run in (alone, during)]
    print(f"| CPU of the agent | {cpu[0]:.1%} | {cpu[1]:.1%} |")
    print(f"| CPU for each unknown key | | {(during['cpu'] - alone['cpu'] / alone['seconds'] * during['seconds']) / told['done'] * 1e6:.1f} us |")
    print(f"| resident memory, KiB: each 2 s | {' '.join(map(str, alone['resident']))} | {' '.join(map(str, during['resident']))}, 2 s later {after} |")
    print(f"| audit lines about unknown keys, and how many they say were left out | | {len(about_unknown):,}; {left_out:,} |")
    print(flush=True)
    keep(options, "flood", {"alone": alone, "during": during, "after": after, "lines": len(about_unknown), "left_out": left_out})


def watched(options: argparse.Namespace, site: Site, known: list[Way], flooded: Way | None) -> dict:
    """Known callers for a time, and a flood beside them if one is asked for; and the agent meanwhile."""
    pace = ["--seconds", str(options.seconds)]
    commands = {way.name: site.load("paced", way, "--connections", "8", "--per-second", str(KNOWN_PER_SECOND), *pace) for way in known}
    if flooded:
        # The key of a known caller is not shown: each request has its own.
        unknown = [*site.load("paced", flooded)[: -len(site.shown["api_key"])], "--unknown-keys"]
        commands["flood"] = [*unknown, "--connections", "64", "--per-second", str(FLOOD_PER_SECOND), *pace]
    begin, at = site.cpu_seconds(), time.monotonic()
    # One core is not enough for such a load beside the backend. The agent has a core that it does not fill.
    running = {name: subprocess.Popen(command, stdout=subprocess.PIPE) for name, command in commands.items()}
    resident = []
    while any(process.poll() is None for process in running.values()):
        resident.append(site.resident_kib())
        time.sleep(2)
    seconds, cpu = time.monotonic() - at, site.cpu_seconds() - begin
    done = {name: json.loads(process.stdout.read()) for name, process in running.items()}
    return done | {"cpu": cpu, "seconds": seconds, "resident": resident}


def differences(rounds: list[float], base: list[float]) -> float:
    return statistics.median(rounds) - statistics.median(base)


def signed(value: float) -> str:
    return f"{value:+,.0f}"


def spread(rounds: list[float]) -> str:
    return f"{min(rounds):,.0f} to {max(rounds):,.0f}"


def keep(options: argparse.Namespace, part: str, figures: dict) -> None:
    with (Path(options.folder) / "decisions.jsonl").open("a") as journal:
        journal.write(json.dumps({"part": part, "at": time.time(), "repeats": options.repeats} | figures) + "\n")


PARTS: dict[str, Callable] = {"paths": count_paths, "cpu": time_paths, "rules": count_rules, "flood": flood}

if __name__ == "__main__":
    main()
