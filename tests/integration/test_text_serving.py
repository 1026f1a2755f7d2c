"""Text encoders and declared networks on the real server: folders as Hugging Face writes them,
requests of different lengths in one batch, and what is refused before it runs."""

import concurrent.futures
import json

import checkpoints
import numpy as np
import pytest
import text_cases
import torch
from architecture_answers import randomise
from serving import request, wait_until
from tritonclient.grpc import InferenceServerException, InferInput
from tritonclient.utils import np_to_triton_dtype

LENGTHS = [3, 17, 8, 46, 1, 30, 12, 5, 21, 40, 2, 9]
LONGEST = 48


def tensors(**arrays):
    made = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def folder(repository, model, kind, head, **settings):
    """What save_pretrained writes, and the network."""
    network = text_cases.network(kind, head, **settings).eval()
    randomise(network, seed=4)
    network.save_pretrained(repository / model)
    return network


def ids_of(length, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(3, text_cases.VOCABULARY, (1, length), dtype=np.int64)


def alone(network, **inputs):
    with torch.inference_mode():
        output = network(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return [tensor.numpy() for tensor in output.to_tuple()]


def executions(client, model):
    statistics = client.get_inference_statistics(model).model_stats[0]
    return statistics.execution_count


@pytest.fixture
def bert(serve, repository):
    network = folder(repository, "bert", "bert", "Model", hidden_size=128, num_attention_heads=8,
                     intermediate_size=512)  # fmt: skip
    server = serve()
    server.wait_model("bert")
    return server, network


@pytest.mark.parametrize("masked", [False, True], ids=["without mask", "with mask"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_requests_of_different_lengths_share_a_batch(serve, repository, kind, masked):
    network = folder(repository, kind, kind, "Model", hidden_size=128, num_attention_heads=8,
                     intermediate_size=512)  # fmt: skip
    server = serve()
    server.wait_model(kind)
    client = server.client()
    asked = []
    for i, length in enumerate(LENGTHS):
        inputs = {"input_ids": ids_of(length, i)}
        if masked:
            mask = np.ones_like(inputs["input_ids"])
            mask[:, length - length // 3 :] = 0
            inputs["attention_mask"] = mask
        asked.append(inputs)

    def ask_together():
        """Whether some were one batch, of which the others have no part."""
        before = executions(client, kind)
        # The first occupies the server while the others arrive.
        busy = server.stub.ModelInfer.future(
            request(kind, np.ones((64, 40), np.int64), "input_ids", "INT64"))
        with concurrent.futures.ThreadPoolExecutor(len(asked)) as threads:
            answers[:] = threads.map(lambda inputs: client.infer(kind, tensors(**inputs)), asked)
        busy.result(timeout=60)
        return executions(client, kind) - before < 1 + len(asked)

    answers = []
    wait_until(ask_together, "requests that arrive while the first is computed")
    for inputs, answer in zip(asked, answers):
        for name, expected in zip(("last_hidden_state", "pooler_output"), alone(network, **inputs)):
            seen = answer.as_numpy(name)
            assert seen.shape == expected.shape
            np.testing.assert_allclose(seen, expected, rtol=0, atol=2e-5)


def test_what_the_network_cannot_take_is_refused(bert):
    server, _ = bert
    client = server.client()
    for inputs, said in [
        ({"input_ids": np.full((1, 4), text_cases.VOCABULARY, np.int64)}, "input_ids"),
        ({"input_ids": np.full((1, 4), -1, np.int64)}, "input_ids"),
        ({"input_ids": np.ones((1, LONGEST + 1), np.int64)}, "input_ids"),
        ({"input_ids": np.ones((1, 0), np.int64)}, "input_ids"),
        ({"input_ids": np.ones((1, 4), np.int64),
          "attention_mask": np.full((1, 4), 2, np.int64)}, "attention_mask"),
        ({"input_ids": np.ones((1, 4), np.int64),
          "attention_mask": np.ones((1, 5), np.int64)}, "attention_mask"),
        ({"input_ids": np.ones((1, 4), np.int64),
          "token_type_ids": np.full((1, 4), 2, np.int64)}, "token_type_ids"),
        ({"attention_mask": np.ones((1, 4), np.int64)}, "input_ids"),
    ]:  # fmt: skip
        with pytest.raises(InferenceServerException) as error:
            client.infer("bert", tensors(**inputs))
        assert "INVALID_ARGUMENT" in str(error.value.status()), error.value
        assert said in error.value.message()
    client.infer("bert", tensors(input_ids=np.ones((1, LONGEST), np.int64)))


def test_a_sentence_transformers_folder_gives_embeddings(serve, repository):
    network = folder(repository, "embedder", "mpnet", "Model")
    place = repository / "embedder"
    (place / "modules.json").write_text(json.dumps([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling",
         "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize",
         "type": "sentence_transformers.models.Normalize"}]))  # fmt: skip
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps(
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))  # fmt: skip
    server = serve()
    server.wait_model("embedder")
    ids = ids_of(9, seed=1)
    seen = server.client().infer("embedder", tensors(input_ids=ids)).as_numpy("sentence_embedding")
    inputs = [torch.from_numpy(ids), torch.ones_like(torch.from_numpy(ids))]
    with torch.inference_mode():
        expected = text_cases.sentence("mpnet", "mean", True)(network, inputs).numpy()
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)
    assert abs(np.linalg.norm(seen) - 1) < 1e-5


def test_a_declared_network_is_served_and_swapped(serve, repository):
    module = checkpoints.declared()
    place = repository / "signal"
    place.mkdir()
    (place / "config.pbtxt").write_text(checkpoints.DECLARED)
    torch.save(module.state_dict(), place / "model.pth")
    server = serve()
    server.wait_model("signal")
    client = server.client()
    x = np.random.default_rng(1).normal(size=(2, 2, 50)).astype(np.float32)

    def check():
        with torch.inference_mode():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(client.infer("signal", tensors(input=x)).as_numpy("output"),
                                   expected, rtol=0, atol=1e-6)  # fmt: skip

    check()
    with pytest.raises(InferenceServerException) as error:
        client.infer("signal", tensors(input=x[:, :, :2]))
    assert "INVALID_ARGUMENT" in str(error.value.status())

    randomise(module, seed=8)
    torch.save(module.state_dict(), place / "new")
    (place / "new").rename(place / "model.pth")
    wait_until(lambda: server.infer("signal", x).version == 2, "version 2")
    check()


def test_batch_norms_of_a_declared_network_are_folded(serve, repository):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(128, 2)).eval()  # fmt: skip
    randomise(module, seed=6)
    place = repository / "image"
    place.mkdir()
    (place / "config.pbtxt").write_text("""fold_batch_norm: true
    architecture {
      name: "sequential"
      input { dims: [3, 6, 6] }
      layers { conv2d { out_channels: 8 kernel_size: 3 bias: false } }
      layers { batch_norm2d {} }
      layers { relu {} }
      layers { batch_norm2d {} }
      layers { flatten {} }
      layers { linear { out_features: 2 } }
    }""")
    torch.save(module.state_dict(), place / "model.pth")
    server = serve()
    server.wait_model("image")
    x = np.random.default_rng(2).normal(size=(3, 3, 6, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(server.infer("image", x).array, expected, rtol=0, atol=1e-5)
    # The one that follows a convolution.
    assert "folded 1 batch norm" in server.log()
