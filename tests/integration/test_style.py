"""What the compiler does not check: which folder knows of which, and that the documents tell the
truth about flags and metrics."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import constant, place, save
from serving import ROOT, run_sconce

# A folder may include its own headers and those of folders with a lower rank.
RANK = {
    "base": 0, "checkpoint": 1, "weights": 2, "program": 2.5, "device": 3, "registry": 4,
    "reload": 5, "batching": 5, "loader": 6, "rpc": 6, "http": 6, "tools": 7, "app": 8,
}
# Folders without torch.
TORCH_FREE = ("base", "checkpoint", "registry", "batching", "reload", "rpc", "http")
# Headers of the networks without torch.
TORCH_FREE_MODELS = (
    "models/tensor_rules.h",
    "models/tied_sizes.h",
    "models/sequential/layers.h",
)
TORCH = re.compile(r"<(torch|ATen|c10)/")

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"][^>"]+[>"])', re.MULTILINE)


def sources(*folders, suffixes=(".h", ".cc", ".cu")):
    for folder in folders:
        yield from sorted(
            path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def includes():
    """(file, include) of every source of the server and the networks."""
    for path in sources("server", "models"):
        for include in INCLUDE.findall(path.read_text()):
            yield str(path.relative_to(ROOT)), include


def test_every_folder_of_the_server_has_a_place():
    folders = {path.name for path in (ROOT / "server").iterdir() if path.is_dir()}
    assert folders == set(RANK)


def test_includes_go_one_way():
    wrong = []
    for file, include in includes():
        target = include.strip('"')
        top, _, rest = target.partition("/")
        if not include.startswith('"') or top not in ("server", "models", "proto"):
            continue
        folder, here = rest.split("/")[0], file.split("/")[1]
        if file.startswith("models/"):
            allowed = top == "models"
        elif top == "server":
            allowed = folder == here or RANK[folder] < RANK[here]
        elif top == "models":
            allowed = here not in TORCH_FREE or target in TORCH_FREE_MODELS
        else:
            allowed = top == "proto" and RANK[here] >= RANK["reload"]
        if not allowed:
            wrong.append(f"{file}: {target}")
    assert not wrong


def test_torch_stays_where_it_belongs():
    wrong = []
    for file, include in includes():
        here = file.split("/")[1]
        if include == "<torch/torch.h>":
            wrong.append(f"{file}: {include}, which takes a minute to compile")
        elif include.startswith("<torch/nn") and not file.startswith("models/"):
            wrong.append(f"{file}: {include} belongs into models/")
        elif file.startswith("server/") and TORCH.match(include):
            if here in TORCH_FREE:
                wrong.append(f"{file}: {include}")
            if file.endswith(".h") and not re.match(
                r"<(c10/core/|ATen/core/Tensor\.h)", include
            ):
                wrong.append(f"{file}: {include} in a header")
    assert not wrong


def test_cuda_stays_in_device():
    wrong = [
        f"{file}: {include}"
        for file, include in includes()
        if re.match(r"<(cuda|c10/cuda/|ATen/cuda/|nccl|cublas)", include)
        and not file.startswith("server/device/")
    ]
    assert not wrong


def test_headers_have_the_guard_of_their_path():
    for path in sources("server", "models", suffixes=(".h",)):
        name = re.sub(r"\W", "_", str(path.relative_to(ROOT))).upper()
        guard = f"SCONCE_{name}_"
        assert f"#ifndef {guard}\n#define {guard}\n" in path.read_text(), path


def test_nothing_unfinished_and_no_machine_is_named():
    wrong = []
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|/ro" r"ot/|/wo" r"rk/|/home/\w")
    folders = ("server", "models", "proto", "tests", "bench", "scripts", "cmake", "demo", "deploy",
               "docs", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir()]
    for path in files:
        if not path.is_file() or path.name == ".git" or "__pycache__" in path.parts:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), 1)
            if mark.search(line)
        ]
    assert not wrong


def test_scripts_pass_shellcheck():
    tool = pathlib.Path(sys.executable).parent / "shellcheck"
    scripts = [
        path for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
        if path.is_file() and path.suffix != ".py"]
    libraries = sorted((ROOT / "scripts" / "lib").glob("*.sh"))
    done = subprocess.run(
        [str(tool), "-x", *map(str, scripts + libraries)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


# Documents ---------------------------------------------------------------------------------------


def table_rows(text, first_cell):
    """The cells of the table rows whose first cell begins with this code, by that code."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").split("|")]
        found = re.match(rf"`({first_cell})", cells[0])
        # The tables meant have three columns or more.
        if line.startswith("|") and found and len(cells) > 3:
            rows[found[1]] = cells
    return rows


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


def flags_in_help(command):
    """{flag: [default, meaning]} as `--help` tells them."""
    said = {}
    for line in run_sconce(*command.split(), "--help").stdout.partition("\nOptions:\n")[2].splitlines():
        if not line.startswith("  "):
            break  # the end of the list
        found = re.match(r"  (?:-\w,)?(--[\w-]+) ?(.*?)(?:$|  +(.*))", line)
        if not found:
            said[flag][1] += line.strip()
            continue
        flag, value, meaning = found.groups(default="")
        default = "required" if value.endswith("REQUIRED") else value.partition("=")[2]
        said[flag] = ["" if flag == "--prefix" else default, meaning]
    del said["--help"]
    return said


def test_readme_tells_flags_defaults_and_meanings_as_help_does(readme):
    said = flags_in_help("serve")
    written = {
        flag: [cells[1].strip("`"), cells[2].strip()]
        for flag, cells in table_rows(readme, r"--[\w-]+").items()
    }
    assert len(said) >= 10
    assert written == said


def test_readme_tells_the_flags_of_the_other_commands_too(readme):
    said = {}
    for command in ("inspect", "check", "summary", "architectures", "diff", "convert", "merge",
                    "devices", "ctl", "ctl status", "ctl load"):
        for flag, (default, meaning) in flags_in_help(command).items():
            said[command, flag] = [default, meaning]
    written = {}
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found = re.match(r"`(--[\w-]+)", cells[1]) if len(cells) == 4 else None
        if found:
            written[cells[0].strip("`"), found[1]] = [cells[2].strip("`"), cells[3]]
    assert len(said) >= 10
    assert written == said


def test_readme_tells_metrics_types_labels_and_meanings_as_the_server_does(
    readme, serve, repository
):
    save(constant(1), place(repository, "m"))
    # What is prepared has a series that others have not.
    place(repository, "m", "config.pbtxt").write_text("precision: BF16\n")
    server = serve()
    server.infer("m", np.zeros((1, 4)))
    text = server.get("/metrics")[1]
    help_of = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    said = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        labels = set()
        for sample in re.findall(rf"^{name}(?:_\w+)?{{(.*)}} ", text, re.MULTILINE):
            labels.update(re.findall(r'(\w+)="', sample))
        said[name] = [kind, labels - {"le"}, help_of[name]]
    written = {
        name: [cells[1], set(re.findall(r"\w+", cells[2])), cells[3]]
        for name, cells in table_rows(readme, r"sconce_\w+").items()
    }
    assert written == said


def named_tests(text):
    """The tests that a document names, and those of them that are not written."""
    named = re.findall(r"`(\w+Test\.\w+)`", text) + re.findall(r"`(test_\w+)`", text)
    written = set()
    for path in (ROOT / "tests").rglob("*_test.cc"):
        found = re.findall(r"^TEST(?:_[FP])?\((\w+),\s+(\w+)\)", path.read_text(), re.MULTILINE)
        written.update(f"{suite}.{name}" for suite, name in found)
    for path in (ROOT / "tests" / "integration").glob("test_*.py"):
        written.update(re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE))
    return named, [name for name in named if name not in written]


def test_every_test_that_the_checkpoints_document_names_exists():
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    named, missing = named_tests(text)
    assert named and missing == []
    # Each row of a table of two or more columns names its test in the last one.
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tests |" not in line]
    assert [row for row in rows if "`" not in row.split("|")[-2] and "security.md" not in row] == []


def test_every_test_that_the_hot_swap_document_names_exists():
    text = (ROOT / "docs" / "hot-swap.md").read_text()
    named, missing = named_tests(text)
    assert named and missing == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tests |" not in line]
    assert len(rows) > 40
    assert [row for row in rows if "`" not in row.split("|")[-2]] == []


def test_every_test_that_the_security_document_names_exists():
    text = (ROOT / "docs" / "security.md").read_text()
    named, missing = named_tests(text)
    assert named and missing == []
    cases = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert cases == list(range(1, 44))
