"""What tests need that build something of their own, with what the project was built with."""

import os
import pathlib
import re
import subprocess

BUILD = pathlib.Path(os.environ["SCONCE_BUILD_DIR"])


def run(*command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=400, **options)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def cached(name):
    """What the build was configured with."""
    return re.search(rf"^{name}:\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(), re.M).group(1)
