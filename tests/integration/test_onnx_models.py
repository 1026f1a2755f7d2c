"""ONNX models by both of PyTorch's exporters: each answers as the module does in Python, and those
that keep names and fold nothing are weights for the catalog. scripts/programs --onnx asks the same
of every network."""

import onnx_cases
import pytest
from onnx_answers import TOLERANCE, OnnxAnswers

CASES = {case.name: case for case in onnx_cases.classifiers() + onnx_cases.texts()}


@pytest.fixture(scope="module")
def answers():
    with OnnxAnswers() as running:
        yield running


@pytest.mark.parametrize("name", ["regnet_y_8gf", "bert: tokens"])
def test_a_model_runs_and_gives_weights(answers, name):
    row = answers.compare(CASES[name])
    for way, file in row.files.items():
        assert not file.failed and not file.error and not file.fixed, (way, file)
        assert file.difference <= TOLERANCE, (way, file)
        assert not file.weights or not way.endswith("plain"), (way, file)
