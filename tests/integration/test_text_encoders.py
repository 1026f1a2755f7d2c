"""Text encoders out of Hugging Face folders: what save_pretrained writes is detected, loaded and
answers as in Python; old spellings and heads that are not served; what is not supported is refused
by name. That every encoder with every head answers bit for bit is test_architectures.py's."""

import json
import pathlib

import pytest
import text_cases
import torch
from architecture_answers import Answers, randomise

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize",
     "type": "sentence_transformers.models.Normalize"},
]  # fmt: skip
HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"]


@pytest.fixture(scope="module")
def answers():
    torch.set_num_threads(1)
    with Answers() as running:
        yield running


def pooling(**modes):
    return {"word_embedding_dimension": 32, "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False, **modes}  # fmt: skip


def saved(kind, head, folder, **settings):
    """A network of random weights, and what save_pretrained writes of it."""
    network = text_cases.network(kind, head, **settings).eval()
    randomise(network, seed=5)
    network.save_pretrained(folder)
    return network


def folder_of(folder, **files):
    texts = {"config": (pathlib.Path(folder) / "config.json").read_text()}
    return texts | {name: json.dumps(value) for name, value in files.items()}


def inputs_of(kind, lengths=(6, 11, 4)):
    return text_cases.texts(kind, lengths)(torch.Generator().manual_seed(9))


def equal(expected, seen):
    return len(expected) == len(seen) and all(map(torch.equal, expected, seen))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", text_cases.KINDS)
def test_a_folder_answers_as_in_python(answers, tmp_path, kind, head):
    network = saved(kind, head, tmp_path, num_labels=4) if "Class" in head else saved(
        kind, head, tmp_path)  # fmt: skip
    inputs = inputs_of(kind)
    # Of a masked language model the encoder is served, without its head.
    served = network.base_model if head == "ForMaskedLM" else network
    with torch.inference_mode():
        expected = text_cases.answers(kind)(served, inputs)
    answer, seen = answers.ask(tmp_path / "model.safetensors", inputs,
                               hugging_face=folder_of(tmp_path))  # fmt: skip
    assert "error" not in answer, answer
    assert answer["family"] == text_cases.family(kind)
    assert "assumed" not in answer["why"]
    assert equal(expected, seen), (expected, seen)


@pytest.mark.parametrize(("mode", "key"), [("mean", "pooling_mode_mean_tokens"),
                                           ("cls", "pooling_mode_cls_token"),
                                           ("max", "pooling_mode_max_tokens")])  # fmt: skip
def test_a_folder_of_sentence_transformers_gives_embeddings(answers, tmp_path, mode, key):
    network = saved("mpnet", "Model", tmp_path)
    inputs = inputs_of("mpnet")
    for modules in (MODULES[:2], MODULES):
        with torch.inference_mode():
            normalised = len(modules) == 3
            expected = text_cases.sentence("mpnet", mode, normalised)(network, inputs)
        files = folder_of(tmp_path, modules=modules, pooling=pooling(**{key: True}))
        answer, seen = answers.ask(tmp_path / "model.safetensors", inputs, hugging_face=files)
        assert "error" not in answer, answer
        assert equal([expected], seen), (expected, seen)


def test_a_sentence_transformer_saved_whole_is_an_encoder_under_a_prefix(answers):
    network = text_cases.network("bert", "Model").eval()
    randomise(network, seed=5)
    inputs = inputs_of("bert")
    state = {"0.auto_model." + name: tensor for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        expected = text_cases.answers("bert")(network, inputs)
    answer, seen = answers.ask(state, inputs, "bert",
                               {"num_attention_heads": str(text_cases.HEADS)})  # fmt: skip
    assert "error" not in answer, answer
    assert equal(expected, seen)


def test_old_spellings_are_taken(answers):
    network = text_cases.network("bert", "ForPreTraining").eval()
    randomise(network, seed=5)
    inputs = inputs_of("bert")
    state = {}
    for name, tensor in network.state_dict().items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    state["bert.embeddings.position_ids"] = torch.arange(48).unsqueeze(0)
    with torch.inference_mode():
        expected = text_cases.answers("bert")(network.bert, inputs)
    answer, seen = answers.ask(state, inputs, "bert",
                               {"num_attention_heads": str(text_cases.HEADS)})  # fmt: skip
    assert "error" not in answer, answer
    assert equal(expected, seen)


def test_what_the_weights_do_not_tell_is_assumed_and_said(answers):
    network = text_cases.network("bert", "Model", hidden_size=128, num_attention_heads=2).eval()
    randomise(network, seed=5)
    inputs = inputs_of("bert")
    answer, seen = answers.ask(network.state_dict(), inputs)
    assert "num_attention_heads 2" in answer["why"] and "layer_norm_eps" in answer["why"]
    with torch.inference_mode():
        assert equal(text_cases.answers("bert")(network, inputs), seen)
    # Not a multiple of 64.
    small = text_cases.network("bert", "Model", hidden_size=96)
    answer, _ = answers.ask(small.state_dict(), inputs)
    assert "does not tell the number of attention heads" in answer["error"]


def test_an_encoder_without_a_head_is_told_by_its_types_of_tokens(answers):
    for kind, types in (("bert", 2), ("roberta", 1)):
        network = text_cases.network(kind, "Model", hidden_size=64, num_attention_heads=1,
                                     type_vocab_size=types)  # fmt: skip
        answer, _ = answers.ask(network.state_dict(), inputs_of(kind))
        assert answer["name"] == kind, answer


@pytest.mark.parametrize(("change", "said"), [
    ({"position_embedding_type": "relative_key"}, 'position_embedding_type "relative_key"'),
    ({"is_decoder": True}, "is_decoder true"),
    ({"add_cross_attention": True}, "add_cross_attention true"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"quantization_config": {}}, "quantization_config"),
    ({"hidden_act": "gelu_python"}, 'hidden_act "gelu_python"'),
    ({"architectures": ["BertForQuestionAnswering"]}, '"BertForQuestionAnswering"'),
    ({"architectures": ["BertLMHeadModel"]}, '"BertLMHeadModel"'),
    ({"num_attention_heads": 0}, "num_attention_heads: expected an integer from 1"),
    ({"num_attention_heads": 1e30}, "num_attention_heads: expected an integer from 1"),
    ({"num_attention_heads": 2**64 - 1}, "num_attention_heads: expected an integer from 1"),
    ({"num_attention_heads": "12"}, "num_attention_heads: expected an integer from 1"),
    ({"num_attention_heads": 3}, "num_attention_heads divides"),
    ({"layer_norm_eps": -1}, "layer_norm_eps: expected a number from 0 to 1"),
    ({"model_type": 7}, "model_type: expected a string"),
    ({"architectures": "BertModel"}, "architectures: expected a list of names"),
])  # fmt: skip
def test_a_config_that_is_not_supported_is_refused_by_name(answers, tmp_path, change, said):
    network = text_cases.network("bert", "Model")
    config = json.loads(network.config.to_json_string(use_diff=False)) | change
    answer, _ = answers.ask(network.state_dict(), inputs_of("bert"),
                            hugging_face={"config": json.dumps(config)})  # fmt: skip
    assert said in answer["error"], answer


@pytest.mark.parametrize(("files", "said"), [
    ({"config": "{"}, "config.json: is not JSON"),
    ({"config": "[" * 100_000}, "config.json: is not JSON"),
    ({"config": "[]"}, "config.json: is not an object"),
    ({"config": " " * (4 << 20) + "{}"}, "config.json: expected at most 4194304 bytes"),
    ({"modules": {}}, "modules.json: is not a list"),
    ({"modules": []}, "without Pooling"),
    ({"modules": [{}]}, "modules[0]: expected a type and a path"),
    ({"modules": [*MODULES[:2], {"type": "x.Dense", "path": "2_Dense"}]}, '"x.Dense"'),
    ({"modules": [MODULES[0], {"type": "x.Pooling", "path": "../../etc"}]}, '"../../etc"'),
    ({"modules": MODULES}, "names 1_Pooling/config.json, which is not there"),
    ({"modules": MODULES, "pooling": pooling()}, "chooses no kind of pooling"),
    ({"modules": MODULES, "pooling": pooling(pooling_mode_mean_tokens=1)}, "true or false"),
    ({"modules": MODULES, "pooling": pooling(pooling_mode_lasttoken=True)},
     '"pooling_mode_lasttoken" is not supported'),
    ({"modules": MODULES, "pooling": pooling(pooling_mode_mean_tokens=True,
                                             pooling_mode_max_tokens=True)},
     "more than one kind of pooling"),
])  # fmt: skip
def test_a_folder_with_wrong_files_is_refused(answers, files, said):
    network = text_cases.network("bert", "Model")
    texts = {"config": network.config.to_json_string(use_diff=False)}
    for name, value in files.items():
        texts[name] = value if isinstance(value, str) else json.dumps(value)
    answer, _ = answers.ask(network.state_dict(), inputs_of("bert"), hugging_face=texts)
    assert said in answer["error"], answer["error"][:500]


def test_a_config_of_an_unknown_kind_leaves_it_to_the_weights(answers):
    linear = torch.nn.Linear(3, 2)
    answer, _ = answers.ask(linear.state_dict(), [torch.ones(1, 3)],
                            hugging_face={"config": '{"model_type": "gpt2"}'})  # fmt: skip
    assert answer.get("name") == "linear", answer
