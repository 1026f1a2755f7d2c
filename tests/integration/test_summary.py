"""`sconce summary` compared with what is known of networks and with what Python says of them."""

import json
import re

import pytest
import torch
import torchvision
from checkpoints import linear, resnet18, seeded
from serving import run_sconce


def sconce(*arguments, status=0):
    done = run_sconce("summary", *arguments, patience=120)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def summary(net, tmp_path, *flags):
    path = tmp_path / "model.pth"
    torch.save(net.state_dict(), path)
    return json.loads(sconce(path, "--json", *flags).stdout)


def parameters_of(net):
    return sum(parameter.numel() for parameter in net.parameters())


def layers_by_name(document):
    return {layer["name"]: layer for layer in document["layers"] if layer["name"]}


# As torchvision's documentation gives them, in thousand millions.
@pytest.mark.parametrize("name, giga", [
    ("resnet50", 4.09), ("vgg16", 15.47), ("alexnet", 0.71), ("mobilenet_v2", 0.30),
    ("resnext50_32x4d", 4.23)])
def test_multiply_adds_of_known_networks(name, giga, tmp_path):
    net = getattr(torchvision.models, name)()
    document = summary(net, tmp_path)
    assert document["multiply_adds"] / 1e9 == pytest.approx(giga, abs=0.006)
    assert document["parameters"] == parameters_of(net)
    assert document["parameters_unused"] == 0
    assert document["output_shapes"] == [[1, 1000]]


def hooked_shapes(net, *size):
    """Output shape of each module with weights, by a run in Python."""
    shapes = {}
    for name, module in net.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(
                lambda _, __, output, name=name: shapes.__setitem__(name, list(output.shape)))
    with torch.inference_mode():
        net(torch.zeros(*size))
    return shapes


def test_layers_are_those_of_the_network(tmp_path):
    net = resnet18()
    document = summary(net, tmp_path, "--input-size", "3,96,64", "--batch", "2")
    assert document["architecture"] == "resnet18(num_classes=10)"
    assert document["inputs"] == [{"name": "input", "shape": [2, 3, 96, 64]}]
    layers = layers_by_name(document)
    assert {name: layer["output_shape"] for name, layer in layers.items()} == hooked_shapes(
        net, 2, 3, 96, 64)
    modules = dict(net.named_modules())
    for name, layer in layers.items():
        assert layer["parameters"] == parameters_of(modules[name]), name
    # 2 images of 64 channels and 48 x 32 pixels, each a sum over 3 x 7 x 7.
    assert layers["conv1"]["multiply_adds"] == 2 * 64 * 48 * 32 * 3 * 7 * 7
    assert layers["conv1"]["operators"] == ["conv2d"]
    assert layers["fc"]["multiply_adds"] == 2 * 512 * 10
    assert layers["bn1"]["multiply_adds"] == 0
    # What has no weights stands where it runs.
    names = [layer["name"] for layer in document["layers"]]
    after = document["layers"][names.index("bn1") + 1]
    assert after["name"] == "" and after["operators"] == ["relu_", "max_pool2d"]
    assert after["output_shape"] == [2, 64, 24, 16]


def test_a_convolution_of_groups_counts_the_channels_of_its_group(tmp_path):
    layers = layers_by_name(summary(torchvision.models.mobilenet_v2(), tmp_path))
    depthwise = layers["features.1.conv.0.0"]
    assert depthwise["output_shape"] == [1, 32, 112, 112]
    assert depthwise["multiply_adds"] == 32 * 112 * 112 * 9


def test_attention_is_counted(tmp_path):
    """As arithmetic has it, from the sizes: each of 12 layers has four matrices of 768 x 768, two of
    768 x 3072, and two products of 197 x 197."""
    net = torchvision.models.vit_b_16()
    document = summary(net, tmp_path)
    tokens, width, hidden = 197, 768, 3072
    layer = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    patches = 196 * width * 3 * 16 * 16
    assert document["multiply_adds"] == 12 * layer + patches + width * 1000
    assert document["parameters"] == parameters_of(net)


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
        self.fc = torch.nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


def test_a_program_is_listed_and_recurrent_layers_are_counted(tmp_path):
    net = Recurrent().eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 5, 8),)), tmp_path / "net.pt2")
    document = json.loads(sconce(tmp_path / "net.pt2", "--json").stdout)
    layers = layers_by_name(document)
    # 2 sequences of 5 steps, 2 directions, 4 gates of 16: of 8 + 16 inputs, then of 32 + 16.
    assert layers["lstm"]["multiply_adds"] == 2 * 5 * 2 * 4 * 16 * (8 + 16 + 32 + 16)
    assert layers["lstm"]["parameters"] == parameters_of(net.lstm)
    assert layers["fc"]["multiply_adds"] == 2 * 32 * 4
    assert document["parameters"] == parameters_of(net)


def test_text(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "model.pth")
    text = sconce(tmp_path / "model.pth").stdout
    assert re.search(r"layer +output +parameters +multiply-adds +operators", text)
    assert re.search(r"conv1 +\[1, 64, 112, 112\] +9,408 +118 M +conv2d", text)
    assert re.search(r"total +11,181,642 +1\.81\d* G", text)


def test_importance_is_that_of_the_weights(tmp_path):
    net = resnet18()
    with torch.no_grad():
        net.conv1.weight[5] = 0  # a channel that does nothing
    document = summary(net, tmp_path, "--importance")
    by_weight = {layer["weight"]: layer for layer in document["importance"]}
    largest = max(layer["mean_magnitude"] for layer in document["importance"])
    for name in ("conv1.weight", "layer4.1.conv2.weight", "fc.weight"):
        weight = net.state_dict()[name].double().flatten(1)
        layer = by_weight[name]
        assert layer["channels"]["l1"] == pytest.approx(weight.abs().sum(1).tolist())
        assert layer["channels"]["l2"] == pytest.approx(weight.norm(dim=1).tolist())
        assert layer["mean_magnitude"] == pytest.approx(weight.abs().mean().item())
        assert layer["relative"] == pytest.approx(weight.abs().mean().item() / largest)
        assert layer["weakest"] == weight.abs().sum(1).argsort(stable=True).tolist()
        assert "activation" not in layer["channels"]
    assert by_weight["conv1.weight"]["weakest"][0] == 5
    # The layer with the least comes first in text.
    text = sconce(tmp_path / "model.pth", "--importance").stdout
    ranked = sorted(document["importance"], key=lambda layer: layer["mean_magnitude"])
    rows = re.findall(r"^(\S+\.weight) +[\d,]+ ", text, re.M)
    assert rows == [layer["weight"] for layer in ranked]
    assert re.search(r"conv1\.weight .* 5 \(0", text)


def test_importance_of_samples_is_what_layers_put_out(tmp_path):
    net = seeded(resnet18)
    images = torch.randn(3, 3, 64, 64)
    torch.save({"input": images}, tmp_path / "samples.pt")
    document = summary(net, tmp_path, "--importance", "--samples", tmp_path / "samples.pt")
    assert document["inputs"][0]["shape"] == [3, 3, 64, 64]
    seen = {}
    for name in ("conv1", "layer3.0.conv2", "fc"):
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.clone()))
    with torch.inference_mode():
        net(images)
    by_name = {layer["name"]: layer for layer in document["importance"]}
    for name, output in seen.items():
        mean = output.abs().double().mean([d for d in range(output.dim()) if d != 1])
        assert by_name[name]["channels"]["activation"] == pytest.approx(mean.tolist(), rel=1e-4)
        assert by_name[name]["mean_activation"] == pytest.approx(mean.mean().item(), rel=1e-4)
        assert sorted(by_name[name]["least_active"]) == list(range(len(mean)))


def test_what_cannot_be_summarised_is_said(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(linear(4, 3).state_dict(), path)
    assert "expected numbers" in sconce(path, "--input-size", "4,-1", status=2).stderr
    assert "fails on these inputs" in sconce(path, "--input-size", "5", status=2).stderr
    assert "expected at most 1" in sconce(
        path, "--input-size", "4", "--input-size", "4", status=2).stderr
    assert "--importance" in sconce(path, "--samples", path, status=2).stderr
    assert "expected a tensor 'input'" in sconce(
        path, "--importance", "--samples", path, status=2).stderr
    torch.save({"unknown": torch.ones(2)}, path)
    assert "model.pth" in sconce(path, status=2).stderr
