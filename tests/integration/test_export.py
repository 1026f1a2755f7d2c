"""scripts/export.py: from a module in Python to a folder that the server serves."""

import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from serving import PATIENCE, ROOT, triton

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    example_inputs = (torch.arange(8.0).view(2, 4),)

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, numbers):
        return {"logits": self.out(numbers), "half": numbers / 2}

class OneSize(Net):
    def forward(self, numbers):
        return self.out(numbers) if numbers.shape[0] == 2 else self.out(-numbers)

class Two(nn.Module):
    def forward(self, ids, weights):
        return ids * 2, weights.sum(1)

made = Net()
"""


@pytest.fixture
def export(tmp_path, repository):
    (tmp_path / "networks.py").write_text(NETWORK)

    def run(model, *flags, succeeds=True):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "export.py", f"networks:{model}", *flags, "-o",
             repository / "m"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
        assert (done.returncode == 0) == succeeds, done.stderr
        return done.stderr

    return run


def test_the_folder_is_served_and_proven(export, serve, repository, tmp_path):
    weights = torch.nn.Linear(4, 3)
    state = {f"out.{name}": value for name, value in weights.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "trained.pth")
    export("Net", "--weights", "trained.pth")
    golden = safetensors.torch.load_file(repository / "m" / "golden" / "sample.safetensors")
    assert sorted(golden) == ["half", "logits", "numbers"]
    server = serve()
    for rows in (1, 2, 5):
        numbers = torch.randn(rows, 4)
        with torch.inference_mode():
            expected = weights(numbers)
        tensor = triton.InferInput("numbers", [rows, 4], "FP32")
        tensor.set_data_from_numpy(numbers.numpy())
        with server.client() as client:
            answer = client.infer("m", [tensor], client_timeout=PATIENCE)
        assert np.array_equal(answer.as_numpy("logits"), expected.numpy())
        assert np.array_equal(answer.as_numpy("half"), numbers.numpy() / 2)


def test_what_can_have_one_size_alone_is_exported_with_that(export, repository):
    assert "2 rows at a time" in export("OneSize")
    assert (repository / "m" / "program.pt2").exists()


def test_samples_may_be_described(export, repository):
    export("Two", "--input", "INT64[2]", "--input", "FP32[2,5]")
    golden = safetensors.torch.load_file(repository / "m" / "golden" / "sample.safetensors")
    assert sorted(golden) == ["ids", "output_0", "output_1", "weights"]


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("Two", (), "expected sample inputs"),
        ("Two", ("--input", "FP31[2]"), "expected e.g. 'FP32[1,3,224,224]'"),
        ("torch.get_num_threads", (), "expected a torch.nn.Module, got int"),
    ],
)
def test_what_is_missing_is_said(export, model, flags, message):
    assert message in export(model, *flags, succeeds=False)
