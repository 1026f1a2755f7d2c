"""The table of exported programs: docs/programs.md. See scripts/programs."""

import argparse
import os
import pathlib
import sys
import textwrap

import program_cases
import torch
from architecture_table import machine
from program_answers import ProgramAnswers, ProgramCase, ProgramRow

HEAD = """# Exported programs against Python

Each module was given random weights in Python, exported with `torch.export`, saved, opened
by the server's reader and run by its executor on the CPU. *Equal* means that every bit of every
output, for each number of rows asked about, is that of the module in Python, from `eval()` under
`inference_mode()`, with weights that want no gradient and as many threads. *nativert* is PyTorch's
own runner, in the same process, on the first of them.{small}

`{command}` writes this file: {machine}, {threads} thread(s), torch {torch}, torchvision
{torchvision}.

| program | operators | batch | answers | nativert |
|---|---:|---|---|---|
"""


def reason(error: str) -> str:
    """Without where the file lies."""
    text = error.splitlines()[0].split("program.pt2: ")[-1]
    return text.removeprefix("program/models/model.json: ")


def verdict(case: ProgramCase, row: ProgramRow) -> str:
    if row.exported:
        return f"torch.export refuses it: {textwrap.shorten(row.exported, 160)}"
    if case.refused:
        refused = case.refused in row.error
        return f"refused: {reason(row.error)}" if refused else f"**runs or fails**: {row.error}"
    if row.error:
        return f"**failed**: {reason(row.error)}"
    if row.equal:
        return "equal"
    if case.otherwise and row.deviation <= case.tolerance:
        return f"within {row.deviation:.1g}: {case.otherwise}"
    return f"**differs** by up to {row.deviation:.2g}"


def ran(row: ProgramRow) -> bool:
    return not (row.exported or row.error)


def line(case: ProgramCase, row: ProgramRow) -> str:
    kind = ("dynamic" if case.dynamic else "fixed") if row.batched else "none"
    cells = [case.name, str(row.nodes or ""), kind if ran(row) else "", verdict(case, row),
             row.nativert[:80]]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def table(rows: list, command: str, threads: int, small: bool) -> str:
    """Of pairs of a case and its row."""
    import torchvision

    text = HEAD.format(command=command, threads=threads,
                       small=" The large classifiers are small networks of the same family."
                       if small else "",
                       machine=f"{machine()}, {os.cpu_count()} processors",
                       torch=torch.__version__, torchvision=torchvision.__version__)  # fmt: skip
    equal = sum(row.equal and ran(row) for _, row in rows)
    return (text + "".join(line(*pair) for pair in rows)
            + f"\n{equal} of {len(rows)} are equal bit for bit.\n")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="scripts/programs")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true",
                        help="large classifiers as small networks of the same family")  # fmt: skip
    parser.add_argument("--only", default="", help="programs whose name begins so")
    arguments = parser.parse_args()

    rows = []
    with ProgramAnswers(arguments.threads) as answers:
        for case in program_cases.all_cases(full=not arguments.small):
            if not case.name.startswith(arguments.only):
                continue
            row = answers.compare(case)
            rows.append((case, row))
            print(f"{case.name}: {verdict(case, row)}; nativert: {row.nativert} "
                  f"({row.seconds:.1f} s)", flush=True)  # fmt: skip
    command = f"scripts/programs{' --small' if arguments.small else ''}"
    arguments.out.write_text(table(rows, command, arguments.threads, arguments.small))
    failures = sum(verdict(case, row).startswith("**") for case, row in rows)
    print(f"{failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
