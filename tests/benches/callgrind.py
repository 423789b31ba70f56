"""Instructions of a running process, counted by valgrind's callgrind from one dump to the next."""

import re
import subprocess
from pathlib import Path


class Profile:
    """The files into which one process dumps. Each dump begins at nought."""

    def __init__(self, path: Path):
        self.path = path
        self.dumps = 0

    def under(self, *more: str) -> tuple[str, ...]:
        """What stands before the command that is counted."""
        return ("valgrind", "--tool=callgrind", f"--callgrind-out-file={self.path}", *more)

    def dump(self, process: int) -> int:
        """Instructions since the last dump."""
        control(process, "--dump")
        self.dumps += 1
        text = Path(f"{self.path}.{self.dumps}").read_text()
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
        return int(total[1])


def control(process: int, *order: str) -> None:
    subprocess.run(["callgrind_control", *order, str(process)], check=True, capture_output=True)
