"""The catalog's networks answer as Python's do, bit for bit: every one of torchvision's 80, the
large ones as small networks of the same family. scripts/architectures does all in full size."""

import pytest
from architecture_answers import Answers
from architecture_table import all_cases

CASES = all_cases(full=False)


@pytest.fixture(scope="module")
def answers():
    with Answers() as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_answers_are_those_of_python(answers, case):
    row = answers.compare(case)
    assert not row.error, row.error
    assert row.found == (case.detected or case.name), row.detected
    assert row.meaningful, "the outputs are not finite, or all alike"
    if case.operator:
        assert row.deviation <= case.tolerance, row
    else:
        assert row.equal, row
