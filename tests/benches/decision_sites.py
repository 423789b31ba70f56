"""What `decisions` measures: one agent with an inbound for each way in, all in one process so that nothing else differs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import contenders
from contenders import HERE, Started, filled, free_address

# A config of ten thousand rules, read by an agent under valgrind.
START_WITHIN = 900.0

RULE = '[[inbound.allow]]\nroles = ["client"]\nmethods = ["GET", "POST"]\npaths = ["/1k", "/bytes/*", "/events/**"]\n'


@dataclass(frozen=True)
class Way:
    """One way into the service: what its inbound demands and holds, and what a caller shows."""

    name: str
    title: str
    keys: str = ""
    rules: str = RULE
    before: str = ""
    anonymous: bool = False
    shows: str = ""
    # One of so many of the requests that are counted elsewhere: a request can take as long here as thousands do.
    one_of: int = 1

    def table(self, address: str, backend: str) -> str:
        own = f'[[inbound]]\nname = "{self.name}"\nidentity = "spiffe://bench.example/server"\nlisten = "{address}"\n'
        return f'{own}backend = "http://{backend}"\n{self.keys}\n{self.rules}\n'


LIMIT = '[[limit]]\nname = "plenty"\nby = "caller"\nrequests = "1000000/1s"\ninbounds = ["limit"]\n'
CONDITION = "when = 'context.hour < 24 && context.method == \"GET\"'\n"

PATHS = (
    Way("mtls", "mTLS and a role rule"),
    Way("api-key", "API key, no certificate", keys='any_of = ["api_key"]', anonymous=True, shows="api_key"),
    Way("jwt", "cached JWT (RS256), no certificate", keys='any_of = ["jwt"]', anonymous=True, shows="jwt"),
    Way("mtls-jwt", "mTLS and cached JWT", keys='require = ["mtls", "jwt"]', shows="jwt"),
    Way("limit", "mTLS, one `[[limit]]` by caller", before=LIMIT),
    Way("when", "mTLS, one `when` on hour and method", rules=RULE + CONDITION),
    Way("policy", "mTLS, a policy file of one policy", keys="@POLICY 1@", rules=""),
    Way("policies", "mTLS, a policy file of 1,000, one about the caller", keys="@POLICY 1000@", rules=""),
)


def rule_ways(count: int) -> list[tuple[Way, Way]]:
    """Tables of so many rules of which the last one allows, each beside a single rule to compare it with. A pair has an agent of
    its own: all tables of ten thousand rules together are more than a config may hold."""
    own = [f'[[inbound.allow]]\nroles = ["client"]\nmethods = ["GET"]\npaths = ["/v1/{rule}"]\n' for rule in range(count - 1)]
    others = [text.replace('"client"', f'"other-{rule % other_roles(count)}"') for rule, text in enumerate(own)]
    asked = [text.replace(f'"/v1/{rule}"', '"/1k"') for rule, text in enumerate(own)]
    fails = "when = 'context.method == \"PUT\"'\n"
    roles = "".join(
        f'[[role]]\nname = "other-{role}"\nmembers = ["spiffe://bench.example/other/{role}"]\n'
        for role in range(other_roles(count))
    )

    def pair(name: str, title: str, rules: list[str], condition: str = "", last: str = "", one_of: int = 1) -> tuple[Way, Way]:
        table = "".join(rule + condition for rule in rules) + RULE + last
        return Way("one", "", rules=RULE + last, before=roles), Way(name, title, rules=table, one_of=one_of)

    return [
        pair("others", "other roles", others),
        pair("others-when", "other roles, each with a condition", others, CONDITION, CONDITION),
        pair("own", "the caller's role, other paths", own, one_of=max(1, count // 1000)),
        pair(
            "own-when",
            "the caller's role, other paths, each with a condition",
            own,
            CONDITION,
            CONDITION,
            one_of=max(1, count // 1000),
        ),
        pair(
            "own-asked",
            "the caller's role, this path, each with a condition that fails",
            asked,
            fails,
            CONDITION,
            max(1, count // 100),
        ),
    ]


def other_roles(rules: int) -> int:
    """As many rules to a role as an operator would write."""
    return max(1, rules // 10)


class Site:
    """An agent before the backend, with these ways in. Nothing runs until `start`."""

    def __init__(self, options, ways: tuple[Way, ...], backend: str, cpu: int):
        self.options, self.ways, self.cpu = options, ways, cpu
        base = Path(options.folder)
        self.folder, self.certificates = base / "decisions", base / "certificates"
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "log").mkdir(parents=True)
        self.addresses = {way.name: free_address() for way in ways}
        self.config = self.folder / "agent.toml"
        tokens = made_tokens(self.folder)
        self.config.write_text(self.text(backend))
        key = self.command("key", "create", "--config", str(self.config), "--owner", "bench", "--role", "client")
        self.shown = {"": [], "jwt": bearer(tokens["good"]), "api_key": bearer(key)}
        self.agent: Started | None = None

    def text(self, backend: str) -> str:
        places = {"FOLDER": str(self.folder), "CERTIFICATES": str(self.certificates), "CONTROL": free_address()}
        top = filled((HERE / "contenders" / "decisions.toml").read_text(), places)
        tables = [way.before for way in self.ways] + [way.table(self.addresses[way.name], backend) for way in self.ways]
        text = top + "\n" + "\n".join(tables)
        for count in (1, 1000):
            text = text.replace(f"@POLICY {count}@", self.policy_table(count))
        return text

    def policy_table(self, count: int) -> str:
        path = self.folder / f"{count}.cedar"
        others = "".join(
            f'@id("other-{number}")\npermit (principal == Workload::"spiffe://bench.example/other/{number}", action, resource);\n'
            for number in range(count - 1)
        )
        own = '@id("own")\npermit (principal in Role::"client", action == Action::"request", resource)\n'
        path.write_text(others + own + 'when { context.method == "GET" };\n')
        return f'[inbound.policy]\nfile = "{path}"'

    def command(self, *arguments: str) -> str:
        done = subprocess.run([self.options.agent, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"countersign-agent {arguments[0]}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def start(self, under: tuple[str, ...] = ()) -> None:
        command = [*under, self.options.agent, "run", "--config", str(self.config)]
        self.agent = Started(command, self.cpu, self.folder / "log" / "agent.log")
        self.agent.wait_for(self.addresses[self.ways[-1].name], within=START_WITHIN)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        if self.agent:
            self.agent.stop()

    @property
    def process(self) -> int:
        return self.agent.process.pid

    def load(self, kind: str, way: Way, *more: str) -> list[str]:
        """The command that asks this way in."""
        identity = ["--anonymous"] if way.anonymous else ["--certificates", str(self.certificates)]
        return [self.options.load, kind, "--to", self.addresses[way.name], *identity, *more, *self.shown[way.shows]]

    def cpu_seconds(self) -> float:
        """User and system time of all threads of the agent, to the nanosecond: what getrusage tells of one's own process."""
        tasks = Path(f"/proc/{self.process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident_kib(self) -> int:
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def audit_lines(self, after: int = 0) -> list[dict]:
        with (self.folder / "log" / "audit.jsonl").open() as lines:
            return [json.loads(line) for number, line in enumerate(lines) if number >= after]


class Rounds:
    """Kept connections over which each `ask` makes so many requests, one at a time on each."""

    def __init__(self, site: Site, way: Way, count: int, cpu: int, connections: int = 1):
        rounds = site.load("rounds", way, "--count", str(count), "--connections", str(connections))
        command = ["taskset", "--cpu-list", str(cpu), *rounds]
        self.way, self.count = way, count
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError(f"{self.way.name}: the requests failed")

    def cpu_seconds(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def __enter__(self) -> "Rounds":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(contenders.END_WITHIN)


def made_tokens(folder: Path) -> dict:
    """Tokens of an issuer whose keys the agent finds in this folder. They count for a day."""
    maker = HERE.parent / "parts" / "token_maker.py"
    names = ["--issuer", "https://tokens.bench.example", "--audience", "https://server.bench.example"]
    command = [sys.executable, "-B", str(maker), "--folder", str(folder), "tokens", *names, "--seconds", "86400"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bearer(secret: str) -> list[str]:
    return ["--header", f"authorization: Bearer {secret}"]


def machine_cpu_seconds() -> float:
    """All CPU time of the machine, stolen time too."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return sum(int(field) for index, field in enumerate(fields) if index not in (3, 4)) / os.sysconf("SC_CLK_TCK")
