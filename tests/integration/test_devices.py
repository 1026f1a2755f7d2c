"""`sconce devices` and what a start loads: on a machine without a GPU, and with drivers that are not
one."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from checkpoints import constant, place, save
from serving import BINARY

BUILD = pathlib.Path(os.environ.get("SCONCE_BUILD_DIR", BINARY.parent))

CUDA_LIBRARIES = ("libtorch_cuda", "libc10_cuda", "libsconce_cuda", "libcublas", "libcudnn")


def devices(*flags, binary=BINARY, **env):
    inherited = {name: os.environ[name] for name in os.environ if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([str(binary), "devices", *flags], capture_output=True, text=True,
                          timeout=120, env={**inherited, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(**options):
    return json.loads(devices("--json", **options))


@pytest.fixture
def no_driver():
    """Skips where a driver is, GPU or not."""
    libraries = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    if "libcuda.so.1" in libraries or list(pathlib.Path("/dev").glob("nvidia*")):
        pytest.skip("an NVIDIA driver is installed")


@pytest.fixture
def driver(tmp_path):
    """driver(kind) is a folder with a libcuda.so.1 that is no driver (fake_driver.cc)."""

    def install(kind):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(BUILD / "tests" / "support" / f"lib{kind}.so", folder / "libcuda.so.1")
        return {"LD_LIBRARY_PATH": str(folder)}

    return install


def test_the_cpu_is_described(no_driver):
    cpu = report()["cpu"]
    assert cpu["cores"] == len(os.sched_getaffinity(0))
    assert cpu["memory_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cpu["name"] and cpu["numa_nodes"] >= 1
    text = devices()
    assert text.startswith("cpu\n") and cpu["name"] in text


def test_without_a_driver_the_cuda_half_is_a_reason_to_expect_cuda(no_driver, tmp_path):
    cuda = report()["cuda"]
    assert cuda["devices"] == []
    assert cuda["error"] == "no NVIDIA driver: libcuda.so.1 is not there"
    if (BINARY.parent / "libsconce_cuda.so").exists():
        assert "libsconce_cuda.so, is installed" in cuda["expected"]
        assert re.search(r"expected +because the CUDA half", devices())
    alone = tmp_path / "sconce"
    shutil.copy(BINARY, alone)
    cuda = report(binary=alone)["cuda"]
    assert cuda["expected"] is None
    assert "expected" not in devices(binary=alone)


def test_a_driver_without_the_cuda_half_says_so(no_driver, driver, tmp_path):
    alone = tmp_path / "sconce"
    shutil.copy(BINARY, alone)
    cuda = report(binary=alone, **driver("fake_driver"))["cuda"]
    assert cuda["error"].startswith("the CUDA half of the server cannot be loaded: ")
    assert "libsconce_cuda.so" in cuda["error"]
    assert "libcuda.so.1 is there" in cuda["expected"]


@pytest.mark.parametrize("kind, version, words", [
    ("fake_driver", "13.0", "no CUDA-capable device is detected"),
    ("fake_old_driver", "12.2", "expected a driver for CUDA 13.0 or newer"),
])
def test_a_driver_that_cannot_serve_is_told_with_its_version(
    no_driver, driver, kind, version, words
):
    if not (BINARY.parent / "libsconce_cuda.so").exists():
        pytest.skip("built without CUDA")
    environment = driver(kind)
    cuda = report(**environment)["cuda"]
    assert cuda["devices"] == []
    assert f"with a driver for CUDA {version}" in cuda["error"]
    assert words in cuda["error"]
    assert "CUDA_VISIBLE_DEVICES" not in cuda["error"]
    hidden = report(**environment, CUDA_VISIBLE_DEVICES="7")
    assert "CUDA_VISIBLE_DEVICES is '7'" in hidden["cuda"]["error"]


def test_the_server_is_linked_with_nothing_of_cuda():
    needed = re.findall(r"\[(.*)\]", subprocess.run(
        ["readelf", "-d", str(BINARY)], capture_output=True, text=True, check=True).stdout)
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if name.startswith(CUDA_LIBRARIES)] == []


def mapped(server):
    return pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_start_on_the_cpu_loads_nothing_of_cuda(device, no_driver, serve, repository):
    save(constant(1), place(repository, "m"))
    maps = mapped(serve(device=device))
    assert "libtorch_cpu.so" in maps
    assert [name for name in CUDA_LIBRARIES if name in maps] == []


def test_auto_with_a_driver_and_no_gpu_serves_on_the_cpu_and_says_why(
    no_driver, driver, serve, repository
):
    if not (BINARY.parent / "libsconce_cuda.so").exists():
        pytest.skip("built without CUDA")
    save(constant(3), place(repository, "m"))
    server = serve(device="auto", env=driver("fake_driver"))
    assert [name for name in CUDA_LIBRARIES if name not in mapped(server)] == []
    assert "devices cpu, because CUDA 13.0 with a driver for CUDA 13.0: " in server.log_tail()
    assert (server.infer("m", np.zeros((1, 4))).array == 3).all()
