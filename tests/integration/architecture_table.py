"""The table of all architectures in full size: docs/architectures.md. See scripts/architectures."""

import argparse
import importlib
import os
import pathlib
import platform
import sys

import torch
from architecture_answers import Answers, Case, Row

# Each has a function cases(full) and a title.
CASE_MODULES = ["torchvision_cases", "text_cases"]

HEAD = """# The catalog's networks against Python's

Each network was given random weights in Python, saved with `torch.save`, detected from names and
shapes, loaded strictly and run in C++ on the CPU, on a batch of 2. *Equal* means that every bit of
every output is Python's, from `eval()` under `inference_mode()`, with as many threads.

`{command}` writes this file: {machine}, {threads} thread(s), torch {torch}, torchvision
{torchvision}.
"""


def load(modules):
    return [importlib.import_module(name) for name in modules]


def all_cases(full: bool) -> list[Case]:
    return [case for module in load(CASE_MODULES) for case in module.cases(full)]


def machine() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def verdict(case: Case, row: Row) -> str:
    if row.error:
        return f"**failed**: {row.error.splitlines()[0][:200]}"
    if not row.meaningful:
        return "**says nothing**: outputs not finite, or all alike"
    if row.equal:
        return "equal"
    if case.operator and row.deviation <= case.tolerance:
        return f"within {row.deviation:.1g}: {case.operator}"
    return f"**differs** by up to {row.deviation:.2g}"


def passed(case: Case, row: Row) -> bool:
    expected = row.found == (case.detected or case.name)
    return expected and not verdict(case, row).startswith("**")


def table(title, rows) -> str:
    lines = [f"\n## {title}\n", "| network | family | parameters | detected | answers |",
             "|---|---|---:|---|---|"]  # fmt: skip
    for case, row in rows:
        detected = row.detected.replace("|", "\\|")
        lines.append(f"| {row.name} | {row.family} | {row.parameter_count:,} | `{detected}` "
                     f"| {verdict(case, row)} |")  # fmt: skip
    equal = sum(row.equal and row.meaningful for _, row in rows)
    lines.append(f"\n{equal} of {len(rows)} are equal bit for bit.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="scripts/architectures")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose name begins so")
    arguments = parser.parse_args()

    import torchvision

    text = HEAD.format(command="scripts/architectures", threads=arguments.threads,
                       machine=f"{machine()}, {os.cpu_count()} processors",
                       torch=torch.__version__, torchvision=torchvision.__version__)  # fmt: skip
    failures = 0
    with Answers(arguments.threads) as answers:
        for module in load(CASE_MODULES):
            rows = []
            for case in module.cases(full=True):
                if not case.name.startswith(arguments.only):
                    continue
                row = answers.compare(case)
                rows.append((case, row))
                failures += not passed(case, row)
                print(f"{case.name}: {row.detected}: {verdict(case, row)} ({row.seconds:.1f} s)",
                      flush=True)  # fmt: skip
            if rows:
                text += table(module.TITLE, rows)
    arguments.out.write_text(text)
    print(f"{failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
