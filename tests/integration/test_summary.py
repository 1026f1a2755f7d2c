"""`sconce summary` compared with what is known of networks and with what Python says of them."""

import json
import re

import pytest
import text_cases
import torch
import torchvision
from checkpoints import DECLARED, declared, linear, resnet18, seeded
from serving import run_sconce


def sconce(*arguments, status=0):
    done = run_sconce("summary", *arguments, patience=120)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def summary(net, tmp_path, *flags):
    path = tmp_path / "model.pth"
    torch.save(net.state_dict(), path)
    return of(path, *flags)


def of(path, *flags):
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


@pytest.mark.parametrize("name", [
    "densenet121", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_layers_of_other_networks_too(name, tmp_path):
    net = getattr(torchvision.models, name)().eval()
    layers = layers_by_name(summary(net, tmp_path, "--input-size", "3,96,64"))
    assert {key: layer["output_shape"] for key, layer in layers.items()} == hooked_shapes(
        net, 1, 3, 96, 64)
    for key, layer in layers.items():
        module = net.get_submodule(key)
        assert layer["parameters"] == sum(p.numel() for p in module.parameters(recurse=False)), key


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
    assert "rank" not in text


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
    # Layers have a rank by what they put out.
    text = sconce(tmp_path / "model.pth", "--importance", "--samples", tmp_path / "samples.pt").stdout
    columns = r"^(\S+\.weight) +[\d,]+ +\S+ +\S+ +\S+% +\S+ +(\d+) "
    ranks = {weight: int(rank) for weight, rank in re.findall(columns, text, re.M)}
    by_output = sorted(document["importance"], key=lambda layer: layer["mean_activation"])
    assert [layer["weight"] for layer in by_output] == sorted(ranks, key=ranks.get)


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


# Whatever a user has ------------------------------------------------------------------------------


def folder_of(path, net, config, weights="model.pth"):
    (path / weights).parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path / weights)
    (path / "config.pbtxt").write_text(config)
    return path


def test_a_models_folder_is_what_its_configuration_says(tmp_path):
    configured = folder_of(tmp_path / "configured", resnet18(), """
        architecture { name: "resnet18" parameters { key: "image_size" value: "64" } }""")
    assert of(configured)["inputs"] == [{"name": "input", "shape": [1, 3, 64, 64]}]

    sequential = folder_of(tmp_path / "declared", declared(), DECLARED)
    layers = layers_by_name(of(sequential, "--input-size", "2,50", "--batch", "3"))
    assert layers["0"]["output_shape"] == [3, 4, 48]
    assert layers["0"]["multiply_adds"] == 3 * 4 * 48 * 2 * 3
    assert layers["4"]["parameters"] == 15
    refused = sconce(sequential, "--input-size", "2,2", status=2).stderr
    assert "input 'input' is of 2 sizes without the batch (2, 3 to " in refused, refused

    (sequential / "config.pbtxt").write_text("no_such_field: 1")
    assert "config.pbtxt:1:" in sconce(sequential, status=2).stderr


def test_of_numbered_folders_the_highest_counts(tmp_path):
    for number, features in (("2", 4), ("10", 6)):
        (tmp_path / "m" / number).mkdir(parents=True)
        torch.save(linear(features, 3).state_dict(), tmp_path / "m" / number / "model.pth")
    assert of(tmp_path / "m")["parameters"] == 6 * 3 + 3


def test_torchscript_is_run_where_its_inputs_are_known(tmp_path):
    net = Recurrent().eval()
    path = folder_of(tmp_path / "m", net, """
        input [{ name: "x" data_type: TYPE_FP32 dims: [5, 8] }]
        output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
        max_batch_size: 4""")
    torch.jit.trace(net, torch.zeros(2, 5, 8)).save(path / "program.pt")
    document = of(path, "--batch", "2")
    assert document["output_shapes"] == [[2, 4]]
    layers = layers_by_name(document)
    assert layers["fc"]["multiply_adds"] == 2 * 32 * 4
    assert layers["lstm"]["parameters"] == parameters_of(net.lstm)
    assert "config.pbtxt" in sconce(path / "program.pt", status=2).stderr
    # What is of the catalog needs no configuration.
    torch.jit.trace(resnet18().eval(), torch.zeros(1, 3, 64, 64)).save(tmp_path / "resnet.pt")
    assert of(tmp_path / "resnet.pt")["architecture"] == "resnet18(num_classes=10)"


def test_all_inputs_of_a_text_encoder_take_the_size_of_the_first(tmp_path):
    net = text_cases.network("bert", "ForSequenceClassification")
    net.save_pretrained(tmp_path / "bert")
    document = of(tmp_path / "bert", "--input-size", "20")
    assert [entry["shape"] for entry in document["inputs"]] == [[1, 20]] * 3
    assert document["parameters"] == parameters_of(net)
    assert document["parameters_unused"] == 0
    # The network's own: its longest text.
    assert of(tmp_path / "bert")["inputs"][0]["shape"] == [1, 48]
    refused = sconce(tmp_path / "bert", "--input-size", "49", status=2).stderr
    assert re.search(r"input 'input_ids' is of 1 size without the batch \(1 to 48\), got '49'", refused)
    samples = {"input_ids": torch.full((2, 7), text_cases.VOCABULARY)}
    torch.save(samples, tmp_path / "samples.pt")
    flags = ("--importance", "--samples", tmp_path / "samples.pt")
    assert "expected values from 0 to 119, got 120" in sconce(
        tmp_path / "bert", *flags, status=2).stderr
    # A mask may be left out, as in requests.
    samples["input_ids"] -= 1
    torch.save(samples, tmp_path / "samples.pt")
    assert [entry["shape"] for entry in of(tmp_path / "bert", *flags)["inputs"]] == [[2, 7]] * 3


def test_sizes_that_cannot_be_are_refused_in_plain_words(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(resnet18().state_dict(), path)
    assert "is of 3 sizes without the batch (3, 224, 224), got '224,224'" in sconce(
        path, "--input-size", "224,224", status=2).stderr
    for size in ("3,2000000000,2000000000", "3,900000,900000"):
        refused = sconce(path, "--input-size", size, status=2).stderr
        assert "takes more memory than is free" in refused and refused.count("\n") == 1, refused
    net = Recurrent().eval()
    program = torch.export.export(net, (torch.zeros(2, 5, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert "sconce summary: --batch: " in sconce(
        tmp_path / "net.pt2", "--batch", "3", status=2).stderr


def test_samples_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(resnet18().state_dict(), path)

    def refused(**samples):
        torch.save(samples, tmp_path / "samples.pt")
        error = sconce(path, "--importance", "--samples", tmp_path / "samples.pt", status=2).stderr
        assert "samples.pt: " in error
        return error

    assert "expected 4 dimensions, the batch first, got [3, 64, 64]" in refused(
        input=torch.zeros(3, 64, 64))
    assert "expected a tensor 'input', found none among images" in refused(
        images=torch.zeros(1, 3, 64, 64))
