"""The demo as a newcomer runs it, and that it notices when what it claims does not hold."""

import re
import shutil
import subprocess
import sys

from serving import BINARY, ROOT


def run_demo(folder=ROOT / "demo"):
    return subprocess.run(
        [sys.executable, str(folder / "run_demo.py"), "--sconce", str(BINARY)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_the_demo_holds():
    done = run_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    shares = [float(share) for share in re.findall(r"([\d.]+)% of", done.stdout)]
    assert len(shares) == 2 and shares[0] < shares[1] and shares[1] >= 95
    assert re.search(r"requests sent +\d{3,}", done.stdout)
    assert re.search(r"requests failed +0\n", done.stdout)
    assert re.search(r"swap +\d+ ms", done.stdout)
    assert "serve --model-repository models" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_demo_fails_where_accuracy_does_not_rise(tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(ROOT / "demo", folder)
    shutil.copyfile(ROOT / "demo" / "digits_full.pth", folder / "digits_short.pth")
    shutil.copyfile(ROOT / "demo" / "digits_short.pth", folder / "digits_full.pth")
    done = run_demo(folder)
    assert done.returncode == 1
    assert "accuracy went from" in done.stderr


def test_the_demo_says_what_to_do_without_a_server(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo" / "run_demo.py"), "--sconce", str(tmp_path / "none")],
        capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "scripts/quickstart" in done.stderr
