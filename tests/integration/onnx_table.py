"""The table of ONNX models: the end of docs/onnx.md. See scripts/programs."""

import argparse
import os
import pathlib
import sys

import onnx
import onnx_cases
import torch
from architecture_table import machine
from onnx_answers import TOLERANCE, WAYS, File, OnnxAnswers, OnnxRow

HEADING = "## Measured\n"

HEAD = """
Each network of the catalog was given random weights in Python and written as an ONNX model in four
ways:

{ways}

Each file was run as a program on the CPU, on a batch of 2 and on another of 3 with texts of another
length; the first columns have the largest difference from the module's answers in Python, as a part
of the largest answer. Where it is more than 2e-05, the network with such weights multiplies
rounding: the difference between the module's own answers in float32 and float64 stands behind it.
*2 only*: the exporter wrote the number of rows into the file. Then each file
was given as weights to the network of the catalog, by name; *equal* means that it was taken whole
and that every bit of the answers is Python's. Large networks are small ones of the same family with
the same kinds of layers (`tests/integration/onnx_cases.py` says which); images are of 64 x 64, or
what the network wants.

`{command}` writes this part: {machine}, {threads} thread(s), torch {torch}, torchvision
{torchvision}, transformers {transformers}, onnx {onnx}, onnxscript {onnxscript}.

| network | {columns} | {weights} |
|---|{lines}
"""

# How many times what rounding does to the module itself they may be where that is more.
ROUNDING = 10


def answers(file: File, rounding: float) -> str:
    if file.failed:
        return "not written"
    if file.error:
        return f"**failed**: {file.error.splitlines()[0].partition('.onnx: ')[2][:160]}"
    verdict = f"{file.difference:.0e}" if file.difference else "0"
    if file.difference > TOLERANCE:
        verdict += f" ({rounding:.0e})"
    if file.difference > max(TOLERANCE, ROUNDING * rounding):
        verdict = f"**{verdict}**"
    return verdict + (", 2 only" if file.fixed else "")


def weights(file: File) -> str:
    if file.failed:
        return ""
    return "no" if file.weights else "equal"


def line(row: OnnxRow) -> str:
    files = [row.files[way] for way in WAYS]
    cells = [row.name, *(answers(file, row.rounding) for file in files), *map(weights, files)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def head(threads: int) -> str:
    import onnxscript
    import torchvision
    import transformers

    return HEAD.format(
        ways="\n".join(f"- *{way}*: {how}" for way, how in WAYS.items()),
        command="scripts/programs --onnx", threads=threads,
        machine=f"{machine()}, {os.cpu_count()} processors", torch=torch.__version__,
        torchvision=torchvision.__version__, transformers=transformers.__version__,
        onnx=onnx.__version__, onnxscript=onnxscript.__version__, columns=" | ".join(WAYS),
        weights=" | ".join(f"weights: {way}" for way in WAYS), lines="---|" * 2 * len(WAYS),
    )  # fmt: skip


def lines_of(text: str) -> dict:
    """Those that the table has, by network."""
    return {found.split("|")[1].strip(): found for found in text.splitlines()
            if found.startswith("| ") and not found.startswith("| network ")}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="scripts/programs --onnx")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose name begins so; the others' "
                                                   "lines stay")  # fmt: skip
    parser.add_argument("--files", type=pathlib.Path, help="where the models are kept, and taken "
                                                           "from where they are there")  # fmt: skip
    arguments = parser.parse_args()

    prose, _, measured = arguments.out.read_text().partition(HEADING)
    cases = onnx_cases.classifiers() + onnx_cases.texts()
    known = lines_of(measured)
    lines = {case.name: known[case.name] for case in cases if case.name in known}
    failures = 0
    with OnnxAnswers(arguments.threads) as asked:
        for case in cases:
            if not case.name.startswith(arguments.only):
                continue
            row = asked.compare(case, arguments.files)
            lines[case.name] = line(row)
            # Each is kept, since all take an hour.
            table = "\n".join(lines[case.name] for case in cases if case.name in lines)
            arguments.out.write_text(prose + HEADING + head(arguments.threads) + table + "\n")
            failures += "**" in lines[case.name]
            print(f"{lines[case.name]} ({row.seconds:.1f} s)", flush=True)
            for way, file in row.files.items():
                for why in filter(None, [file.failed, file.error, file.weights]):
                    print(f"  {way}: {why[:300]}", flush=True)
    print(f"{failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
