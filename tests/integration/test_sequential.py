"""Networks declared in config.pbtxt answer as torch.nn's do, bit for bit: each layer by itself, and
whole networks."""

import pytest
import torch
from architecture_answers import Answers, as_tensors, randomise
from torch import nn


class Recurrent(nn.Module):
    """torch.nn's recurrent modules give several tensors: all steps, or the state at the end."""

    def __init__(self, kind, *arguments, last=False, **settings):
        super().__init__()
        self.inner = kind(*arguments, batch_first=True, **settings)
        self.last = last

    def forward(self, x):
        sequence, state = self.inner(x)
        if not self.last:
            return sequence
        state = state[0] if isinstance(state, tuple) else state
        return torch.cat([state[-2], state[-1]], 1) if self.inner.bidirectional else state[-1]

    def state_dict(self, *args, prefix="", **kwargs):
        return self.inner.state_dict(*args, prefix=prefix, **kwargs)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def lstm(*arguments, **settings):
    return Recurrent(nn.LSTM, *arguments, **settings)


def gru(*arguments, **settings):
    return Recurrent(nn.GRU, *arguments, **settings)


# The layer as config.pbtxt has it, torch.nn's, and the dimensions of what it takes.
LAYERS = [
    ("linear { out_features: 5 }", lambda: nn.Linear(7, 5), [7]),
    # Of more than two dimensions and many features: see models/dense.h.
    ("linear { out_features: 40 }", lambda: nn.Linear(600, 40), [4, 600]),
    ("linear { out_features: 5 bias: false }", lambda: nn.Linear(7, 5, bias=False), [4, 7]),
    ("conv1d { out_channels: 6 kernel_size: 3 }", lambda: nn.Conv1d(4, 6, 3), [4, 20]),
    ("conv1d { out_channels: 6 kernel_size: 3 stride: 2 padding: 2 dilation: 2 groups: 2 }",
     lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, 2), [4, 21]),
    ("conv2d { out_channels: 6 kernel_size: 3 }", lambda: nn.Conv2d(4, 6, 3), [4, 9, 8]),
    ("conv2d { out_channels: 6 kernel_size: [3, 5] stride: [2, 1] padding: [1, 2] "
     "dilation: [1, 2] groups: 2 bias: false }",
     lambda: nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), (1, 2), 2, bias=False), [4, 12, 13]),
    ("batch_norm1d {}", lambda: nn.BatchNorm1d(5), [5]),
    ("batch_norm1d { eps: 0.01 }", lambda: nn.BatchNorm1d(5, eps=0.01), [5, 9]),
    ("batch_norm2d { affine: false }", lambda: nn.BatchNorm2d(5, affine=False), [5, 4, 3]),
    ("layer_norm {}", lambda: nn.LayerNorm(9), [5, 9]),
    ("layer_norm { dimensions: 2 eps: 0.01 elementwise_affine: false }",
     lambda: nn.LayerNorm((5, 9), eps=0.01, elementwise_affine=False), [3, 5, 9]),
    ("group_norm { num_groups: 2 }", lambda: nn.GroupNorm(2, 6), [6, 5, 4]),
    ("group_norm { num_groups: 3 eps: 0.01 affine: false }",
     lambda: nn.GroupNorm(3, 6, eps=0.01, affine=False), [6, 5]),
    ("embedding { num_embeddings: 11 embedding_dim: 4 }", lambda: nn.Embedding(11, 4), [6]),
    ("lstm { hidden_size: 5 }", lambda: lstm(3, 5), [7, 3]),
    ("lstm { hidden_size: 5 num_layers: 2 bidirectional: true output: LAST }",
     lambda: lstm(3, 5, 2, bidirectional=True, last=True), [7, 3]),
    ("lstm { hidden_size: 5 bias: false output: LAST }",
     lambda: lstm(3, 5, bias=False, last=True), [7, 3]),
    ("gru { hidden_size: 5 num_layers: 2 }", lambda: gru(3, 5, 2), [7, 3]),
    ("gru { hidden_size: 5 bidirectional: true output: LAST }",
     lambda: gru(3, 5, bidirectional=True, last=True), [7, 3]),
    ("max_pool1d { kernel_size: 3 }", lambda: nn.MaxPool1d(3), [4, 11]),
    ("max_pool1d { kernel_size: 3 stride: 2 padding: 1 dilation: 2 ceil_mode: true }",
     lambda: nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), [4, 12]),
    ("max_pool2d { kernel_size: 2 }", lambda: nn.MaxPool2d(2), [4, 8, 9]),
    ("max_pool2d { kernel_size: [3, 2] stride: [2, 1] padding: [1, 0] ceil_mode: true }",
     lambda: nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True), [4, 8, 9]),
    ("avg_pool1d { kernel_size: 3 stride: 2 padding: 1 count_include_pad: false }",
     lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False), [4, 12]),
    ("avg_pool2d { kernel_size: 3 stride: 2 padding: 1 ceil_mode: true }",
     lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), [4, 8, 9]),
    ("adaptive_max_pool1d { output_size: 3 }", lambda: nn.AdaptiveMaxPool1d(3), [4, 11]),
    ("adaptive_max_pool2d { output_size: [2, 3] }", lambda: nn.AdaptiveMaxPool2d((2, 3)),
     [4, 7, 8]),
    ("adaptive_avg_pool1d { output_size: 3 }", lambda: nn.AdaptiveAvgPool1d(3), [4, 11]),
    ("adaptive_avg_pool2d { output_size: 2 }", lambda: nn.AdaptiveAvgPool2d(2), [4, 7, 8]),
    ("flatten {}", nn.Flatten, [4, 3, 2]),
    ("dropout { p: 0.5 }", nn.Dropout, [9]),
    ("relu {}", nn.ReLU, [33]),
    ("leaky_relu {}", nn.LeakyReLU, [33]),
    ("leaky_relu { negative_slope: 0.2 }", lambda: nn.LeakyReLU(0.2), [33]),
    ("elu {}", nn.ELU, [33]),
    ("elu { alpha: 0.5 }", lambda: nn.ELU(0.5), [33]),
    ("gelu {}", nn.GELU, [33]),
    ("gelu { approximate: TANH }", lambda: nn.GELU(approximate="tanh"), [33]),
    ("silu {}", nn.SiLU, [33]),
    ("tanh {}", nn.Tanh, [33]),
    ("sigmoid {}", nn.Sigmoid, [33]),
    ("hardswish {}", nn.Hardswish, [33]),
    ("softmax {}", lambda: nn.Softmax(-1), [4, 9]),
    ("softmax { dim: 0 }", lambda: nn.Softmax(1), [4, 9]),
    ("permute { dims: [1, 2, 0] }", lambda: Call(lambda x: x.permute(0, 2, 3, 1)), [4, 3, 2]),
    ("last_step {}", lambda: Call(lambda x: x[:, -1]), [4, 3]),
]  # fmt: skip


class TextClassifier(nn.Module):
    """As people write it by hand."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(32, 4)

    def forward(self, ids):
        _, (state, _) = self.lstm(self.embed(ids))
        return self.fc(torch.cat([state[-2], state[-1]], 1))


class SignalNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(8, 16, 3), nn.GroupNorm(4, 16), nn.GELU(),
            nn.AdaptiveAvgPool1d(1))  # fmt: skip
        self.head = nn.Linear(16, 6)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def image_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.SiLU(), nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))  # fmt: skip


NETWORKS = {
    "image": (image_net, "dims: [3, 32, 32]", [3, 32, 32], """
        layers { conv2d { out_channels: 8 kernel_size: 3 padding: 1 } }
        layers { batch_norm2d {} }
        layers { relu {} }
        layers { max_pool2d { kernel_size: 2 } }
        layers { conv2d { out_channels: 16 kernel_size: 3 stride: 2 } }
        layers { batch_norm2d {} }
        layers { silu {} }
        layers { dropout { p: 0.3 } }
        layers { adaptive_avg_pool2d { output_size: 2 } }
        layers { flatten {} }
        layers { linear { out_features: 10 } }
        layers { softmax {} }"""),
    "signal": (SignalNet, "dims: [2, -1]", [2, 40], """
        layers { name: "features.0" conv1d { out_channels: 8 kernel_size: 5 padding: 2 } }
        layers { name: "features.1" batch_norm1d {} }
        layers { relu {} }
        layers { max_pool1d { kernel_size: 2 } }
        layers { name: "features.4" conv1d { out_channels: 16 kernel_size: 3 } }
        layers { name: "features.5" group_norm { num_groups: 4 } }
        layers { gelu {} }
        layers { adaptive_avg_pool1d { output_size: 1 } }
        layers { flatten {} }
        layers { name: "head" linear { out_features: 6 } }"""),
    "text": (TextClassifier, "data_type: TYPE_INT64 dims: -1", [9], """
        layers { name: "embed" embedding { num_embeddings: 50 embedding_dim: 12 } }
        layers { name: "lstm" lstm {
          hidden_size: 16 num_layers: 2 bidirectional: true output: LAST } }
        layers { name: "fc" linear { out_features: 4 } }"""),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    with Answers() as running:
        yield running


def compare(answers, module, state, config, dims, vocabulary):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    # at::gru computes otherwise, by up to 1.2e-7, where weights want a gradient; those of a server
    # want none.
    randomise(module.eval().requires_grad_(False), seed=2)
    x = torch.randn(3, *dims, generator=generator)
    if vocabulary:
        x = torch.randint(0, vocabulary, (3, *dims), generator=generator)
    with torch.inference_mode():
        expected = as_tensors(module(x))
    answer, seen = answers.ask(state(), [x], config=config)
    assert "error" not in answer, answer
    assert answer["class_name"] == "Sequential"
    assert len(seen) == 1 and torch.equal(seen[0], expected[0]), (seen, expected)
    assert float(expected[0].std()) > 0


def declared(layers, tensor):
    return f'architecture {{ name: "sequential" input {{ {tensor} }} {layers} }}'


@pytest.mark.parametrize(("layer", "make", "dims"), LAYERS, ids=[layer for layer, _, _ in LAYERS])
def test_a_layer_answers_as_torch(answers, layer, make, dims):
    module, layers = make(), f"layers {{ {layer} }}"
    embedding = isinstance(module, nn.Embedding)
    if not module.state_dict():
        # A file of weights holds at least one.
        module = nn.Sequential(nn.LayerNorm(dims[-1]), module)
        layers = "layers { layer_norm {} } " + layers

        def state():
            return module.state_dict()
    else:

        def state():
            return {"0." + name: tensor for name, tensor in module.state_dict().items()}

    kind = "data_type: TYPE_INT64" if embedding else ""
    compare(answers, module, state, declared(layers, f"{kind} dims: {dims}"), dims,
            11 if embedding else 0)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_as_torch(answers, name):
    make, tensor, dims, layers = NETWORKS[name]
    module = make()
    compare(answers, module, module.state_dict, declared(layers, tensor), dims,
            50 if name == "text" else 0)  # fmt: skip


def test_what_does_not_fit_is_told_as_load_state_dict_tells_it(answers):
    state = {"fc.weight": torch.ones(3, 5), "fc.bias": torch.ones(3)}
    config = declared('layers { name: "fc" linear { out_features: 4 } }', "dims: 5")
    answer, _ = answers.ask(state, [torch.ones(1, 5)], config=config)
    assert "size mismatch for fc.weight" in answer["error"], answer
