"""Repositories written for Triton's PyTorch backend, served as they are."""

import threading

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from serving import wait_until
from torch import nn
from tritonclient.utils import InferenceServerException

BATCHED = """
name: "two"
platform: "pytorch_libtorch"
max_batch_size: 8
input [
  { name: "INPUT__1" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 4 ] }
]
output [
  { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 4 ] }
]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
parameters: { key: "DISABLE_OPTIMIZED_EXECUTION" value: { string_value: "true" } }
parameters: { key: "INFERENCE_MODE" value: { string_value: "true" } }
"""

WHOLE = """
name: "whole"
backend: "pytorch"
default_model_filename: "traced.pt"
input { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 6 ] reshape { shape: [ 2, 3 ] } }
output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 3, 2 ] }
"""


class Two(nn.Module):
    """Not symmetric, so that what comes in the wrong order shows."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.full((4,), float(factor)))

    def forward(self, a, b):
        return self.factor * (a + 2 * b), self.factor * (a - b)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x.t() + self.bias


def place_script(folder, module, config, number=1, name="model.pt"):
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / str(number)).mkdir()
    part = folder / str(number) / (name + ".part")
    torch.jit.script(module.eval()).save(str(part))
    part.rename(part.with_suffix(""))


def tensor(name, array):
    given = triton.InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return given


def ask(server, model, *arrays):
    with server.client() as client:
        return client.infer(model, [tensor(f"INPUT__{i}", a) for i, a in enumerate(arrays)])


def config_of(server, model):
    with server.client() as client:
        return client.get_model_config(model).config


def test_names_give_the_places_of_inputs_and_outputs(serve, repository):
    place_script(repository / "two", Two(), BATCHED)
    server = serve()
    server.wait_model("two")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((3, 4), np.float32) for _ in range(2))
    answer = ask(server, "two", a, b)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT__0"), a + 2 * b)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT__1"), a - b)
    config = config_of(server, "two")
    assert config.max_batch_size == 8
    assert config.platform == "pytorch_libtorch" and config.backend == "pytorch"
    with pytest.raises(InferenceServerException, match="at most 8 rows"):
        ask(server, "two", np.zeros((9, 4), np.float32), np.zeros((9, 4), np.float32))


def test_what_has_no_effect_is_said(serve, repository):
    place_script(repository / "two", Two(), BATCHED)
    server = serve()
    server.wait_model("two")
    log = server.log()
    for words in ("without effect in config.pbtxt", "preferred_batch_size (",
                  "max_queue_delay_microseconds (", "DISABLE_OPTIMIZED_EXECUTION ("):
        assert words in log, words


def test_without_a_batch_dimension_each_request_is_run_alone(serve, repository):
    place_script(repository / "whole", Turned(), WHOLE, name="traced.pt")
    server = serve()
    server.wait_model("whole")
    with server.client() as client:
        metadata = client.get_model_metadata("whole")
    assert list(metadata.inputs[0].shape) == [6]
    assert list(metadata.outputs[0].shape) == [3, 2]
    assert config_of(server, "whole").max_batch_size == 0

    wrong = []

    def ask_many(seed):
        x = np.random.default_rng(seed).standard_normal(6, np.float32)
        for _ in range(20):
            answer = ask(server, "whole", x).as_numpy("OUTPUT__0")
            if not np.array_equal(answer, x.reshape(2, 3).T + 1):
                wrong.append(seed)

    clients = [threading.Thread(target=ask_many, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert not wrong


def test_a_new_numbered_folder_takes_over(serve, repository):
    place_script(repository / "two", Two(), BATCHED)
    server = serve()
    server.wait_model("two")
    place_script(repository / "two", Two(10), BATCHED, number=2)
    ones = np.ones((1, 4), np.float32)
    wait_until(lambda: ask(server, "two", ones, ones).get_response().model_version == "2",
               "version 2")
    assert ask(server, "two", ones, ones).as_numpy("OUTPUT__0")[0, 0] == 30


@pytest.mark.any_device
@pytest.mark.parametrize("line, message", [
    ('model_warmup [ { name: "a" batch_size: 1 } ]', "model_warmup"),
    ("sequence_batching { }", "sequence_batching"),
    ('parameters: { key: "EXECUTION_ENV_PATH" value: { string_value: "x" } }',
     "'EXECUTION_ENV_PATH' is not supported"),
    ("response_cache { enable: true }", "expected false"),
])
def test_what_is_not_supported_is_refused_by_name_and_place(serve, repository, line, message):
    place_script(repository / "two", Two(), BATCHED + line + "\n")
    server = serve(wait_ready=False)
    reason = wait_until(lambda: server.reason("two"), "the refusal")
    assert "config.pbtxt:" in reason and message in reason
