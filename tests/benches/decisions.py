"""Measures what each way to decide on a request costs. Started by `decisions`.

`paths` and `rules` count instructions by callgrind, one request at a time, so that they depend little on what else runs.
`cpu` takes the agent's CPU time over many requests on one kept connection. `flood` shows unknown API keys beside known callers.
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

# The credentials whose CPU time has a bound, and what it is compared with: how far that differs from itself is the error.
TIMED = (PATHS[0], Way("again", "the same again"), *PATHS[1:4])

# Requests of one path before it is another's turn.
TURN = 2_000

# CPU time is taken of an agent that is busy: one that is woken for each request spends most of it on waking up.
AT_ONCE = 16

# A second with fewer instructions than this is a silent one, and so many of them in a row are rest.
SILENT_INSTRUCTIONS = 3_000_000
SILENT_SECONDS = 3
SETTLE_SECONDS_MAX = 900

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
        row(way.title, [f"{statistics.median(rounds):,.0f}", signed(more), spread(rounds)])
    print(flush=True)
    keep(options, "paths", counted)


def counted_rounds(options: argparse.Namespace, site: Site) -> dict[str, list[float]]:
    """Every way in, one after the other, so that what changes with time meets all of them."""
    profile = Profile(site.folder / "log" / "callgrind.out")
    # A large config is read without being counted.
    site.start(profile.under("--instr-atstart=no"))
    control(site.process, "--instr=on")
    settle(site, profile)
    counted: dict[str, list[float]] = {way.name: [] for way in site.ways}
    for way in site.ways:
        count = max(1, options.counted // way.one_of)
        with Rounds(site, way, count, options.load_cpu) as rounds:
            for _ in range(WARM_UP_ROUNDS):
                rounds.ask()
            profile.dump(site.process)
            for _ in range(options.repeats):
                rounds.ask()
                counted[way.name].append(profile.dump(site.process) / count)
    return counted


def settle(site: Site, profile: Profile) -> None:
    """Waits until the agent does next to nothing: a new agent reads its config once more, which takes minutes under valgrind if
    there are ten thousand conditions in it, and would be counted as work for requests."""
    profile.dump(site.process)
    silent = 0
    for _ in range(SETTLE_SECONDS_MAX):
        time.sleep(1)
        silent = silent + 1 if profile.dump(site.process) < SILENT_INSTRUCTIONS else 0
        if silent == SILENT_SECONDS:
            return
    raise RuntimeError("the agent does not come to rest")


def time_paths(options: argparse.Namespace, backend: str) -> None:
    with Site(options, TIMED, backend, options.agent_cpu) as site:
        site.start()
        timed, others = timed_turns(options, site)
    print(f"CPU time of the agent per request in microseconds, {AT_ONCE} at a time, {options.repeats} rounds of {options.timed:,}")
    print(f"in turns of {TURN}; the rest of the machine used {others:.2f} CPUs meanwhile\n")
    print("| path | median of the rounds | more than mTLS by round: min / median / max | by turn: quartiles |\n|---|---|---|---|")
    # Both looks at the same path together are a steadier measure than either.
    both = [statistics.mean(pair) for pair in zip(timed["mtls"], timed["again"])]
    for way in TIMED:
        base = timed["mtls"] if way.name in ("mtls", "again") else both
        rounds = in_rounds(timed[way.name], options.repeats)
        by_round = [here - there for here, there in zip(rounds, in_rounds(base, options.repeats))]
        by_turn = [here - there for here, there in zip(timed[way.name], base)]
        each = (min(by_round), statistics.median(by_round), max(by_round))
        row(way.title, [f"{statistics.median(rounds):.2f}", in_order(each), in_order(statistics.quantiles(by_turn, n=4))])
    print(flush=True)
    keep(options, "cpu", timed | {"others": others})


def timed_turns(options: argparse.Namespace, site: Site) -> tuple[dict[str, list[float]], float]:
    """A B C A B C in turns so short that what disturbs the machine meets all of them; each over its own kept connections."""
    timed: dict[str, list[float]] = {way.name: [] for way in site.ways}
    connections = {way.name: Rounds(site, way, TURN, options.load_cpu, AT_ONCE) for way in site.ways}

    def ours() -> float:
        return site.cpu_seconds() + sum(rounds.cpu_seconds() for rounds in connections.values())

    try:
        for rounds in connections.values():
            rounds.ask()
        begin, machine, at = ours(), machine_cpu_seconds(), time.monotonic()
        for _ in range(options.repeats * options.timed // TURN):
            for name, rounds in connections.items():
                before = site.cpu_seconds()
                rounds.ask()
                timed[name].append((site.cpu_seconds() - before) / TURN * 1e6)
        others = (machine_cpu_seconds() - machine - ours() + begin) / (time.monotonic() - at)
    finally:
        for rounds in connections.values():
            rounds.__exit__()
    return timed, others


def in_rounds(turns: list[float], rounds: int) -> list[float]:
    """The mean of each round. Turns are equally long."""
    each = len(turns) // rounds
    return [statistics.mean(turns[number * each : (number + 1) * each]) for number in range(rounds)]


def in_order(values) -> str:
    return " / ".join(f"{value:+.2f}" for value in values)


def count_rules(options: argparse.Namespace, backend: str) -> None:
    rows: dict[str, list[str]] = {}
    for size in options.sizes:
        for one, table in rule_ways(size):
            with Site(options, (one, table), backend, options.agent_cpu) as site:
                counted = counted_rounds(options, site)
            keep(options, f"rules {size} {table.name}", counted)
            # What a single rule costs beside so many roles is told too: a difference alone would hide what depends on roles.
            beside = statistics.median(counted[one.name])
            more = differences(counted[table.name], counted[one.name])
            rows.setdefault(table.title, []).append(f"{signed(more)} to {beside:,.0f}")
            print(f"{size:,} rules of {table.title}: {counted}", file=sys.stderr, flush=True)
    print("Instructions per request that a table of so many rules adds to those of one rule beside as many roles\n")
    print(f"| rules of | {' | '.join(f'{size:,}' for size in options.sizes)} |\n|---|{'---|' * len(options.sizes)}")
    for title, cells in rows.items():
        row(title, cells)
    print(flush=True)


def flood(options: argparse.Namespace, backend: str) -> None:
    known, flooded = [way for way in PATHS if way.name in ("api-key", "mtls")], PATHS[1]
    with Site(options, PATHS, backend, options.agent_cpu) as site:
        site.start()
        with Rounds(site, flooded, FILLING, options.load_cpu) as filling:
            filling.ask()
        alone = watched(options, site, known, None)
        so_far = len(site.audit_lines())
        during = watched(options, site, known, flooded)
        new = site.audit_lines(so_far)
        # What grew with the number of keys would grow once more.
        time.sleep(2)
        after = [site.resident_kib()]
        again = watched(options, site, known, flooded)
        time.sleep(2)
        after.append(site.resident_kib())
    lines = [line for line in new if line.get("reason") == "key_unknown"]
    tell_flood(options, known, (alone, during, again), after, lines)
    kept = {"alone": alone, "during": during, "again": again, "after": after, "lines": len(lines), "left_out": left_out(lines)}
    keep(options, "flood", kept)


def tell_flood(
    options: argparse.Namespace, known: list[Way], runs: tuple[dict, dict, dict], after: list[int], lines: list[dict]
) -> None:
    alone, during, again = runs
    asked = KNOWN_PER_SECOND * options.seconds
    print(f"A flood of unknown API keys for {options.seconds} s, {FLOOD_PER_SECOND:,} a second asked for\n")
    print("| | known callers alone | during the flood | in a second flood, of other keys |\n|---|---|---|---|")
    for way in known:
        row(
            f"known callers by {way.title}: 200, of {asked:,} to be asked",
            [f"{run[way.name]['answers'].get('200', 0):,}" for run in runs],
        )
    floods = [run["flood"] for run in (during, again)]
    answers = [f"{flood['done']:,} ({flood['done'] / flood['seconds']:,.0f}/s): {flood['answers']}" for flood in floods]
    row("unknown keys answered", ["", *answers])
    row("CPU of the agent", [f"{run['cpu'] / run['seconds']:.1%}" for run in runs])
    before = alone["cpu"] / alone["seconds"]
    each = [(run["cpu"] - before * run["seconds"]) / run["flood"]["done"] * 1e6 for run in (during, again)]
    row("CPU for each unknown key, in microseconds", ["", *(f"{used:.1f}" for used in each)])
    memory = [f"{run['resident'][0]:,} / {max(run['resident']):,}" for run in runs]
    row("resident memory in KiB: at first / at most", memory)
    row("2 s later", ["", *(f"{kib:,}" for kib in after)])
    row("audit lines about unknown keys, and how many they say were left out", ["", f"{len(lines):,}; {left_out(lines):,}", ""])
    print(flush=True)


def left_out(lines: list[dict]) -> int:
    return sum(line.get("omitted", 0) for line in lines)


def row(title: str, cells: list[str]) -> None:
    print(f"| {title} | {' | '.join(cells)} |")


def watched(options: argparse.Namespace, site: Site, known: list[Way], flooded: Way | None) -> dict:
    """Known callers for a time, and a flood beside them if one is asked for; and the agent meanwhile."""
    pace = ["--seconds", str(options.seconds)]
    few = ["--connections", "8", "--per-second", str(KNOWN_PER_SECOND), *pace]
    commands = {way.name: site.load("paced", way, *few) for way in known}
    if flooded:
        # The key of a known caller is not shown: each request has its own.
        unknown = [*site.load("paced", flooded)[: -len(site.shown["api_key"])], "--unknown-keys"]
        commands["flood"] = [*unknown, "--connections", "64", "--per-second", str(FLOOD_PER_SECOND), *pace]
    begin, at = site.cpu_seconds(), time.monotonic()
    # One core is not enough for such a load beside the backend. The agent has a core that it does not fill.
    running = {name: subprocess.Popen(command, stdout=subprocess.PIPE) for name, command in commands.items()}
    resident = []
    while any(process.poll() is None for process in running.values()):
        if time.monotonic() >= at + 2 * len(resident):
            resident.append(site.resident_kib())
        time.sleep(0.05)
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
