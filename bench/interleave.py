#!/usr/bin/env python3
"""Times several commands in turn (A B C A B C …) and prints medians, spread and ratios.

usage: interleave.py [-n RUNS] [-w WARMUPS] NAME=COMMAND NAME=COMMAND …

Each COMMAND is given to `sh -c`. The first name is what the others are compared with: a row's
ratio is the median over the runs of (first's time / this row's time) in the same round, so drift
of the machine's speed cancels out. p10 is the 10th percentile. A command that fails stops the bench.
"""

import argparse
import statistics
import subprocess
import sys
import time


def once(command: str) -> float:
    """Seconds of wall time of one run."""
    start = time.perf_counter()
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"`{command}` ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20, help="counted rounds")
    parser.add_argument("-w", type=int, default=2, help="rounds before counting")
    parser.add_argument("commands", nargs="+", metavar="NAME=COMMAND")
    arguments = parser.parse_args()
    commands = dict(item.split("=", 1) for item in arguments.commands)
    times = {name: [] for name in commands}
    for turn in range(arguments.w + arguments.n):
        for name, command in commands.items():
            seconds = once(command)
            if turn >= arguments.w:
                times[name].append(seconds)
    first = next(iter(commands))
    print(f"{'':24} {'median':>10} {'p10':>10} {'min':>10} {'max':>10} {first + '/this':>14}")
    for name, runs in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[first], runs))
        tenth = sorted(runs)[len(runs) // 10]
        print(f"{name:24} {statistics.median(runs) * 1e3:8.2f}ms {tenth * 1e3:8.2f}ms {min(runs) * 1e3:8.2f}ms "
              f"{max(runs) * 1e3:8.2f}ms {ratio:14.2f}")


if __name__ == "__main__":
    main()
