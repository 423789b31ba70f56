"""Runs every contender through every test, interleaved and repeated, and prints what came out. Started by `run`."""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contenders
from contenders import Contender, Hop, Started

OURS = "countersign"

# Work of others, in CPUs, that makes a run a disturbed one. Decided before anything was measured.
OTHERS_MAX = 0.15

# How often a disturbed run is tried again.
ATTEMPTS = 3


@dataclass(frozen=True)
class Figure:
    """What is told of a run. `of` takes what countersign-load printed."""

    title: str
    of: Callable[[dict], float]
    more_is_better: bool = False


@dataclass(frozen=True)
class Test:
    name: str
    title: str
    load: str
    quick_load: str
    both_sides: bool
    figures: tuple[Figure, ...]


TESTS = [
    Test(
        "mesh",
        "Mesh hop: 64 kept HTTP/1.1 connections, answers of 1 KiB",
        "requests --connections 64 --seconds 4",
        "requests --connections 64 --seconds 1.5",
        True,
        (
            Figure("requests/s", lambda run: run["done"] / run["seconds"], more_is_better=True),
            Figure("CPU-s per 10,000 requests", lambda run: run["proxies"] / run["done"] * 1e4),
        ),
    ),
    Test(
        "handshakes",
        "Full mTLS handshakes, each with one request, 16 at a time",
        "handshakes --connections 16 --seconds 4",
        "handshakes --connections 16 --seconds 1.5",
        False,
        (
            Figure("handshakes/s", lambda run: run["done"] / run["seconds"], more_is_better=True),
            Figure("CPU-ms each", lambda run: run["proxies"] / run["done"] * 1e3),
        ),
    ),
    Test(
        "idle",
        "Memory of 5,000 idle mTLS connections, each used once",
        "idle --connections 5000",
        "idle --connections 5000",
        False,
        (
            Figure("KiB per connection", lambda run: (run["after_kib"] - run["before_kib"]) / run["done"]),
            Figure("MiB before the first", lambda run: run["before_kib"] / 1024),
        ),
    ),
    Test(
        "events",
        "200 event streams that start at once through a cold mesh hop, then 20 events/s each",
        "events --streams 200 --per-second 20 --seconds 5",
        "events --streams 200 --per-second 20 --seconds 2",
        True,
        (
            Figure("first byte p50, ms", lambda run: run["first_byte_p50_ms"]),
            Figure("first byte p99, ms", lambda run: run["first_byte_p99_ms"]),
            Figure("event delay p50, ms", lambda run: run["delay_p50_ms"]),
            Figure("event delay p99, ms", lambda run: run["delay_p99_ms"]),
            Figure("CPU-s per 10,000 events", lambda run: run["proxies"] / run["done"] * 1e4),
        ),
    ),
    Test(
        "bulk",
        "1 GiB in 4 answers through a mesh hop (256 MiB if quick)",
        "bulk --connections 4 --mebibytes 1024",
        "bulk --connections 4 --mebibytes 256",
        True,
        (
            Figure("MiB/s", lambda run: run["done"] / run["seconds"], more_is_better=True),
            Figure("CPU-s per GiB", lambda run: run["proxies"] / run["done"] * 1024),
        ),
    ),
]


def main() -> None:
    options = parse()
    # An orderly end on SIGTERM, too: whatever runs is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    bench = Bench(options)
    try:
        with bench.backend:
            bench.backend.wait_for(bench.backend_address)
            for test in options.tests:
                bench.measure(test)
    finally:
        # What was measured before an interruption is worth as much.
        sys.stdout.write(report(options, bench.runs))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/benches/run", description=__doc__)
    for name in ("--agent", "--load", "--folder"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="short windows and two repeats: to try it out, not to quote")
    parser.add_argument("--repeats", type=int, metavar="COUNT", help="runs of each contender in each test (default: 5)")
    parser.add_argument("--tests", metavar="NAMES", help="some of " + ",".join(test.name for test in TESTS))
    parser.add_argument("--contenders", metavar="NAMES", help="peers by the first word of their name (default: all)")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="longest wait for quiet before a run (default: 20)")
    options = parser.parse_args()
    options.repeats = options.repeats or (2 if options.quick else 5)
    options.patience = options.patience if options.patience is not None else (3 if options.quick else 20)
    named = options.tests.split(",") if options.tests else [test.name for test in TESTS]
    options.tests = [test for test in TESTS if test.name in named]
    peers = options.contenders.split(",") if options.contenders else None
    options.contenders = [
        one for one in contenders.known(options.agent) if peers is None or one.name == OURS or one.name.split(",")[0] in peers
    ]
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        parser.error("two CPUs are needed: one for the proxies, one for the load")
    options.load_cpu, options.proxy_cpu = cpus[:2]
    return options


class Bench:
    """The certificates, the backend, and every run so far."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.runs: list[dict] = []
        self.folder = Path(options.folder)
        self.certificates = self.folder / "certificates"
        subprocess.run([options.load, "certificates", self.certificates], check=True)
        self.journal = (self.folder / "runs.jsonl").open("w")
        self.backend_address = contenders.free_address()
        self.backend = Started([options.load, "backend", self.backend_address], options.load_cpu, self.folder / "backend.log")

    def measure(self, test: Test) -> None:
        """A B C A B C: what the machine does slowly meets all of them alike."""
        taking_part = [one for one in self.options.contenders if test.both_sides or not one.is_variant]
        for repeat in range(self.options.repeats):
            for contender in taking_part:
                self.run_until_undisturbed(test, contender, repeat)

    def run_until_undisturbed(self, test: Test, contender: Contender, repeat: int) -> None:
        for _ in range(1 if self.options.quick else ATTEMPTS):
            wait_for_quiet(self.options.patience)
            run = {"test": test.name, "contender": contender.name, "repeat": repeat} | self.run(test, contender)
            run["disturbed"] = run.get("other", 0) > OTHERS_MAX * run.get("seconds", 0)
            self.runs.append(run)
            self.journal.write(json.dumps(run) + "\n")
            self.journal.flush()
            tell(test, run)
            if not run["disturbed"]:
                return

    def run(self, test: Test, contender: Contender) -> dict:
        folder, cpu = self.folder / "contender", self.options.proxy_cpu
        with Hop(contender, self.certificates, folder, self.backend_address, cpu) as hop:
            try:
                hop.start_inbound()
                if test.both_sides:
                    hop.start_outbound()
            except (RuntimeError, OSError) as error:
                return {"failed": str(error)}
            # The end of a start: threads that settle, caches that are filled.
            time.sleep(0.5)
            return self.put_load_on(hop, test)

    def put_load_on(self, hop: Hop, test: Test) -> dict:
        load = (test.quick_load if self.options.quick else test.load).split()
        secure = ["--certificates", str(self.certificates)]
        there = ["--to", hop.outbound] if test.both_sides else ["--to", hop.inbound, *secure]
        watched = [f"--proxy={process}" for process in hop.processes()] + [f"--backend={self.backend.process.pid}"]
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(self.options.load_cpu), self.options.load]
        done = subprocess.run([*pinned, *load, *there, *watched], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.strip()}


def wait_for_quiet(patience: float) -> None:
    """Until half a second has passed with little to do for this machine. A run that starts without it will tell by itself."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = busy_seconds()
        time.sleep(0.5)
        if busy_seconds() - before < OTHERS_MAX * 0.5:
            return


def busy_seconds() -> float:
    """proc(5): cpu user nice system idle iowait irq softirq steal."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def tell(test: Test, run: dict) -> None:
    figures = run.get("failed") or "; ".join(f"{figure.title} {number(figure.of(run))}" for figure in test.figures)
    note = f" (disturbed: others used {run['other'] / run['seconds']:.2f} CPU)" if run["disturbed"] else ""
    sys.stderr.write(f"{test.name} {run['repeat'] + 1}: {run['contender']}: {figures}{note}\n")


def report(options: argparse.Namespace, runs: list[dict]) -> str:
    kernel = f"{platform.system()} {platform.release()}, {processor()}, {os.cpu_count()} CPUs"
    shape = "short windows: not to quote" if options.quick else "full windows"
    head = [kernel, *contenders.versions(options.agent), f"repeats: {options.repeats}, {shape}"]
    measured = [test for test in options.tests if any(run["test"] == test.name for run in runs)]
    sections = [section(test, options, [run for run in runs if run["test"] == test.name]) for test in measured]
    return "\n".join(["", *(f"- {line}" for line in head), "", *sections])


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def section(test: Test, options: argparse.Namespace, runs: list[dict]) -> str:
    names = [one.name for one in options.contenders if any(run["contender"] == one.name for run in runs)]
    cells = {name: Cell([run for run in runs if run["contender"] == name]) for name in names}
    lines = [f"## {test.title}", "", "min / **median** / max", ""]
    lines += row("", "clean/all", *(figure.title for figure in test.figures), "load core")
    lines += row(*["---"] * (len(test.figures) + 3))
    for name, cell in cells.items():
        lines += row(name, cell.count(), *(cell.spread(figure) for figure in test.figures), cell.load_core())
    peers = [name for name in names if name != OURS]
    if OURS not in names or not peers:
        return "\n".join([*lines, ""])
    lines += ["", f"{OURS} : peer, medians", ""]
    lines += row("", *peers)
    lines += row(*["---"] * (len(peers) + 1))
    for figure in test.figures:
        better = "more is better" if figure.more_is_better else "less is better"
        lines += row(f"{figure.title} ({better})", *(cells[OURS].ratio(cells[peer], figure) for peer in peers))
    return "\n".join([*lines, ""])


class Cell:
    """The runs of one contender in one test: the undisturbed ones, or where there are none the others, marked with `~`."""

    def __init__(self, runs: list[dict]):
        self.all = runs
        whole = [run for run in runs if "failed" not in run]
        clean = [run for run in whole if not run["disturbed"]]
        self.clean, self.used = clean, clean or whole
        self.mark = "" if clean else "~"

    def count(self) -> str:
        failed = sum("failed" in run for run in self.all)
        return f"{len(self.clean)}/{len(self.all)}" + (f", {failed} failed" if failed else "")

    def median(self, figure: Figure) -> float:
        return statistics.median(figure.of(run) for run in self.used)

    def spread(self, figure: Figure) -> str:
        if not self.used:
            return "failed"
        values = [figure.of(run) for run in self.used]
        return f"{self.mark}{number(min(values))} / **{number(self.median(figure))}** / {number(max(values))}"

    def ratio(self, peer: "Cell", figure: Figure) -> str:
        if not self.used or not peer.used:
            return "-"
        return f"{self.mark or peer.mark}{self.median(figure) / peer.median(figure):.2f}"

    def load_core(self) -> str:
        shares = [run["load"] / run["seconds"] for run in self.used if "load" in run]
        return f"{statistics.median(shares):.0%}" if shares else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


if __name__ == "__main__":
    main()
