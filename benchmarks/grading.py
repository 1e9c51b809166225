"""Grade 300 synthetic submissions, structure only, two at a time: throughput, memory, and continuing after a kill.

Nine in ten are copies of a small network with changes, one in ten is broken, and one in twenty attacks the examiner. The command
is killed when half of the submissions have a verdict, and started again.

    python benchmarks/grading.py --submissions 300 --jobs 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_NETWORK = """\
from torch import nn


class Net(nn.Module):
    \"\"\"Submission {number}.\"\"\"

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, {a}, 3, bias=False), nn.BatchNorm2d({a}), nn.ReLU(),
            nn.Conv2d({a}, {b}, 3, bias=False), nn.BatchNorm2d({b}), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout({p}),
            nn.Conv2d({b}, {c}, 3, bias=False), nn.BatchNorm2d({c}), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear({c}, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))
"""
_BROKEN = (
    "class Net(:\n",
    "import no_such_package_at_all\nclass Net(no_such_package_at_all.Module): pass\n",
    "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.reshape(7, 7)\n",
    "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        raise RuntimeError('not today')\n",
    "print('no model here')\n",
)
_HOSTILE = (
    "import os\nos._exit(0)\n",
    "import time\nwhile True:\n    time.sleep(1)\n",
    "import os\nfor _ in range(10000):\n    os.fork()\n",
    "x = [bytearray(2**28) for _ in range(1000)]\n",
    "while True:\n    print('A' * 10**6)\n",
)


def write_submissions(folder: Path, count: int) -> list[str]:
    """Write submissions; returns their names."""
    chance, names = random.Random(0), []  # noqa: S311 - no secret
    for number in range(count):
        name = f"student-{number:03}"
        (folder / name).mkdir()
        if number % 20 == 7:  # noqa: PLR2004 - one in twenty
            text = _HOSTILE[number // 20 % len(_HOSTILE)]
        elif number % 10 == 3:  # noqa: PLR2004 - one in ten
            text = _BROKEN[number // 10 % len(_BROKEN)]
        else:
            widths = {"a": chance.randint(6, 12), "b": chance.randint(10, 16), "c": chance.randint(16, 24)}
            text = _NETWORK.format(number=number, p=chance.choice((0.05, 0.1)), **widths)
        (folder / name / "model.py").write_text(text)
        names.append(name)
    return names


def verdicts(out: Path) -> dict[str, dict[str, object]]:
    """The verdicts so far."""
    found = {}
    for path in out.glob("*/verdict.json"):
        with contextlib.suppress(OSError, ValueError):
            found[path.parent.name] = json.loads(path.read_text())
    return found


def usage(root: int) -> tuple[int, float]:
    """Resident memory in bytes and CPU seconds of a process and of all that it started.

    Pages that several processes share count for each. The CPU seconds include those of processes that have ended.
    """
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            parents[number] = int(fields[1])
            used[number] = (int(fields[21]) * resource.getpagesize(), sum(map(int, fields[11:15])))
    family = {root}
    while more := {number for number, parent in parents.items() if parent in family} - family:
        family |= more
    own = [used[number] for number in family if number in used]
    return sum(size for size, _ in own), sum(ticks for _, ticks in own) / os.sysconf("SC_CLK_TCK")


def run(command: list[str], folder: Path, out: Path, *, stop_at: int) -> tuple[float, float, list[int]]:
    """Run the command, or kill it when there are ``stop_at`` verdicts; returns wall and CPU seconds, and memory samples."""
    began, cpu = time.monotonic(), 0.0
    samples = []
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None:
            size, seconds = usage(process.pid)
            samples.append(size)
            cpu = max(cpu, seconds)
            if len(list(out.glob("*/verdict.json"))) >= stop_at:
                process.kill()
            time.sleep(1)
    return time.monotonic() - began, cpu, samples


def main() -> None:
    """Write the submissions, grade them, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--submissions", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grading-") as temporary:
        folder = Path(temporary)
        names = write_submissions(folder, chosen.submissions)
        assignment = Path(__file__).parents[1] / "harness" / "grading" / "builtin" / "era-s7.toml"
        (folder / "class.toml").write_text("load_seconds = 15\n" + assignment.read_text("utf-8"))
        out = folder / "out"
        command = [sys.executable, "-m", "harness", "grade", *names, "--assignment", "class.toml", "--no-train"]
        command += ["--out", str(out), "--jobs", str(chosen.jobs), "--format", "csv"]
        half = chosen.submissions // 2
        first = run(command, folder, out, stop_at=half)
        done = len(verdicts(out))
        second = run(command, folder, out, stop_at=sys.maxsize)
        found = verdicts(out)
        print(f"{os.cpu_count()} cores, {chosen.jobs} jobs, {chosen.submissions} submissions")
        for title, (wall, cpu, samples), count in (
            (f"until killed with {done} verdicts", first, done),
            (f"started again, to {len(found)} verdicts", second, len(found) - done),
        ):
            print(f"{title}: {wall:.0f} s, {3600 * count / wall:.0f} an hour, {cpu / max(count, 1):.2f} CPU s each")
            quarters = [max(samples[i * len(samples) // 4 : (i + 1) * len(samples) // 4], default=0) for i in range(4)]
            print(
                "  resident memory, highest of each quarter: "
                + ", ".join(f"{size / 2**20:.0f} MiB" for size in quarters)
            )
        print(dict(Counter(str(one["status"]) for one in found.values())), "missing:", sorted({*names} - {*found}))
        print(dict(Counter(int(str(one["score"])) for one in found.values())))


if __name__ == "__main__":
    main()
