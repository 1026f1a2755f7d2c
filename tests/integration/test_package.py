"""What `cmake --install` gives: a server that runs, and the package with which the program in
docs/library.md is built, as somebody does who has nothing but the package and torch."""

import os
import pathlib
import re
import subprocess

import checkpoints
import numpy as np
import pytest
import torch
import torchvision
from building import BUILD, cached, run
from checkpoints import save, seeded
from serving import ROOT


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def torch_folder():
    # Where the build found LibTorch, it is found again.
    return cached("SCONCE_TORCH_DIR") or pathlib.Path(torch.__file__).parents[1]


def document(language):
    """The block of that language in docs/library.md."""
    text = (ROOT / "docs" / "library.md").read_text()
    return re.search(rf"```{language}\n(.*?)```", text, re.S).group(1)


def build(folder, prefix, *flags):
    run("cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *flags)
    run("cmake", "--build", folder / "build")


def test_the_installed_server_runs(prefix):
    assert "sconce" in run(prefix / "bin" / "sconce", "--version")


def test_the_program_of_the_documents_answers_as_python(prefix, torch_folder, tmp_path):
    net = seeded(lambda: torchvision.models.resnet18(num_classes=10))
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "model.pth")
    (tmp_path / "predict.cc").write_text(document("cpp"))
    (tmp_path / "CMakeLists.txt").write_text(document("cmake"))
    build(tmp_path, prefix, f"-DSCONCE_TORCH_DIR={torch_folder}")
    program = tmp_path / "build" / "predict"

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = run(program, tmp_path / "model.pth", env=environment)
    answers = np.array(printed.split(), dtype=np.float32)
    expected = checkpoints.expected(net, np.ones((2, 3, 224, 224), np.float32))[1]
    # Printed with six digits.
    np.testing.assert_allclose(answers, expected, rtol=1e-5)

    save(checkpoints.constant(1), tmp_path / "other.pth")
    missing = subprocess.run(
        [program, tmp_path / "missing.pth"], capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and "NOT_FOUND" in missing.stderr


READER = r"""
#include <iostream>
#include "server/checkpoint/checkpoint.h"
int main(int, char** argv) {
  const auto checkpoint = sconce::OpenCheckpoint(argv[1]);
  if (!checkpoint.ok()) return 1;
  for (const sconce::TensorDescriptor& tensor : (*checkpoint)->tensors()) {
    std::string bytes(tensor.size_bytes(), '\0');
    const auto out = absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size());
    if (!(*checkpoint)->ReadInto(tensor, out).ok()) return 1;
    std::cout << tensor.name << ' ' << *reinterpret_cast<const float*>(bytes.data()) << '\n';
  }
}
"""


def test_the_reader_needs_no_torch(prefix, tmp_path):
    net = checkpoints.constant(2.5)
    torch.save(net.state_dict(), tmp_path / "model.pth")
    (tmp_path / "reader.cc").write_text(READER)
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.25)
project(reader LANGUAGES CXX)
find_package(Sconce REQUIRED COMPONENTS checkpoint)
add_executable(reader reader.cc)
target_link_libraries(reader PRIVATE Sconce::checkpoint)
""")
    build(tmp_path, prefix)
    program = tmp_path / "build" / "reader"
    assert run(program, tmp_path / "model.pth").split() == ["weight", "0", "bias", "2.5"]
    assert "torch" not in run("ldd", program)


def test_a_package_without_torch_says_what_is_missing(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.25)
project(none LANGUAGES CXX)
find_package(Sconce COMPONENTS models)
if(NOT Sconce_FOUND)
  message(STATUS "said: ${Sconce_NOT_FOUND_MESSAGE}")
endif()
""")
    said = run("cmake", "-S", tmp_path, "-B", tmp_path / "build",
               f"-DCMAKE_PREFIX_PATH={prefix}", f"-DSCONCE_TORCH_DIR={tmp_path}")
    assert f"said: SCONCE_TORCH_DIR={tmp_path}: torch/lib/libtorch_cpu.so is missing" in said


def test_only_headers_for_users_are_installed(prefix):
    """What the document lists, and what those include."""
    root = prefix / "include" / "sconce"
    listed = re.findall(r"`((?:server|models)/[\w/]+\.h)`", (ROOT / "docs/library.md").read_text())
    reached, waiting = set(), list(listed)
    while waiting:
        header = waiting.pop()
        if header not in reached:
            reached.add(header)
            waiting += re.findall(r'#include "((?:server|models)/[^"]+)"',
                                  (root / header).read_text())
    assert {str(path.relative_to(root)) for path in root.rglob("*.h")} == reached
