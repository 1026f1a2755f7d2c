"""The randomised test of the whole server (soak.py), a fixed number of rounds of it. Failures say
which seed shows them again; scripts/soak goes on for longer."""

from serving import DEVICE
from soak import soak

# A swap runs batches of every size; simulated devices take long for that.
ROUNDS = 80 if DEVICE == "cpu" else 30
SEED = 20


def test_nothing_but_what_is_allowed_is_ever_answered(tmp_path):
    world = soak(tmp_path, SEED, DEVICE, rounds=ROUNDS)
    assert world.answered > 1000 and world.restarts > 0
    assert len(world.trace) > 5 * ROUNDS
