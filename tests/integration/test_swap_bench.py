"""That scripts/bench swap runs and that what it writes is what it says, with models so small that
its figures mean nothing. What does mean something, at any size: no request fails and no answer
mixes two versions, whatever is swapped and however."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
from serving import BINARY, ROOT

BUILD = pathlib.Path(os.environ.get("SCONCE_BUILD_DIR", BINARY.parent))
UNDER_LOAD = {"spare": 3, "shared": 3, "rate": 1, "inplace": 3}  # and the models that are asked


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(JSON, printed text) of one quick run."""
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [sys.executable, "-B", ROOT / "bench" / "scenarios" / "swap.py", "--build", BUILD,
         "--quick", "--folder", folder, "--json", folder / "swap.json"],
        capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads((folder / "swap.json").read_text()), done.stdout


def test_no_request_fails_and_no_answer_is_mixed(written):
    found, _ = written
    for part, asked in UNDER_LOAD.items():
        models = found["parts"][part]["latency"]
        assert len(models) == asked
        for name, of in models.items():
            assert of["failed"] == 0 and of["mixed"] == 0, (part, name, of)
            assert of["requests"] > 0
        assert models["tiny"]["around"]["requests"] > 100
    many = found["parts"]["many"]
    assert many["failed"] == 0 and many["mixed"] == 0 and many["requests"] > 0


def test_percentiles_are_in_their_order(written):
    for part in UNDER_LOAD:
        for of in written[0]["parts"][part]["latency"].values():
            for side in ("between", "around"):
                latency = of[side]
                assert latency["requests"] > 0
                assert (0 < latency["p50"] <= latency["p99"] <= latency["p999"]
                        <= latency["max"]), (part, side, latency)


def test_the_time_until_new_weights_answer_is_split_into_steps(written):
    for part in UNDER_LOAD:
        for of in written[0]["parts"][part]["times"].values():
            assert len(of["live_s"]) >= 2 and min(of["live_s"]) > 0
            # Everything beside the first answer is part of the time until then.
            assert 0 < sum(of["steps_s"].values()) - of["steps_s"].get("published", 0) < max(
                of["live_s"])
            assert {"settling", "structure_checked", "read", "warmed"} <= of["steps_s"].keys()
    head = written[0]["parts"]["head"]
    assert len(head["full"]) == 3 and len(head["head"]) == 2
    for swap in head["full"] + head["head"]:
        assert 0 < swap["steps without settling"] <= swap["live without settling"] <= swap["live"]


def test_each_aim_is_said_to_be_met_or_missed(written):
    found, text = written
    assert found["quick"] and "its figures mean nothing" in text
    aims = [aim["aim"] for aim in found["aims"]]
    for wanted in ("p99 around swaps", "failed of", "mixed answers", "peak above steady",
                   "changed head / full change", "resident memory", "p50 after / before"):
        assert any(wanted in aim for aim in aims), wanted
    for aim in found["aims"]:
        assert math.isfinite(aim["value"]) and aim["met"] == (aim["value"] <= aim["bound"])
        sign = "- met: " if aim["met"] else "- MISSED"
        assert any(line.startswith(sign) and aim["aim"] in line for line in text.splitlines())
