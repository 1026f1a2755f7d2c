"""Writes ONNX models with both of PyTorch's exporters, and what the modules give.

    python3 write_onnx_fixtures.py DIRECTORY [NETWORK...]

Without networks: small ones. With networks: those of torchvision, "all" for all of them.

  NAME.onnx             the model; "_old" at the end of NAME where the older exporter wrote it
  NAME.io.safetensors   "input.x" and the module's "output.y": evaluation mode, one thread
  cases.json            the names, and the largest absolute value of each output
  refused.json          models that are refused, the status and a part of the reason
"""

import json
import logging
import pathlib
import sys
import warnings

import onnx
import safetensors.torch
import torch
import torchvision.models as tv
from onnx import TensorProto, helper
from torch import nn

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
DIRECTORY = pathlib.Path(sys.argv[1])


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    """Layer norm, attention by hand with a mask from the sizes, and an embedding's reshaping."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * 0.5
        mask = torch.ones(n, n).tril().bool()
        scores = scores.masked_fill(~mask, -1e4).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, n, c)).mean(1)


class Mixture(nn.Module):
    """Operators that the others do not use."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.act = nn.PReLU()

    def forward(self, x):
        x = nn.functional.pad(x, (1, 2, 0, 1))
        x = nn.functional.interpolate(self.up(x), scale_factor=2, mode="bilinear")
        a, b = self.norm(x).chunk(2, dim=1)
        y = torch.cat([a.clamp(-1, 1), nn.functional.leaky_relu(b), torch.tanh(a) / 2], dim=1)
        return nn.functional.avg_pool2d(torch.where(y > 0, y, y.exp() - 1), 3, 2, 1).flatten(1)


SMALL = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 7), nn.Softmax(-1)),
        (3, 20),
    ),
    "resnet": (
        lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5),
        (2, 3, 64, 64),
    ),
    "mobilenet": (lambda: tv.mobilenet_v3_small(num_classes=5), (2, 3, 64, 64)),
    "shufflenet": (lambda: tv.shufflenet_v2_x0_5(num_classes=5), (2, 3, 64, 64)),
    "vit": (
        lambda: tv.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=5,
        ),
        (2, 3, 32, 32),
    ),
    "swin": (
        lambda: tv.SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            num_classes=5,
        ),
        (2, 3, 64, 64),
    ),
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 7, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 7, 6)),
    "attention": (Attention, (2, 9, 16)),
    "mixture": (Mixture, (2, 4, 9, 9)),
}


def fresh(make, seed):
    torch.manual_seed(seed)
    module = make().eval()
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return module


def write(name, make, shape, cases, failures):
    module = fresh(make, 1)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        y = module(x)
    if not isinstance(y, torch.Tensor):
        y = y[0]
    # The older exporter's Swin has a Slice with a step of -1, which is refused.
    for dynamo in (True, False) if name != "swin" else (True,):
        case = name if dynamo else f"{name}_old"
        path = DIRECTORY / f"{case}.onnx"
        try:
            how = {"input_names": ["x"], "output_names": ["y"]}
            if dynamo:
                batch = torch.export.Dim("batch", min=1)
                how.update(dynamic_shapes=({0: batch},), external_data=False, verbose=False)
            else:
                how.update(dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
            torch.onnx.export(module, (x,), path, dynamo=dynamo, **how)
        except Exception as error:  # whatever the exporter could not do
            failures[case] = str(error).splitlines()[0]
            continue
        io = {"input.x": x, "output.y": y.clone()}
        safetensors.torch.save_file(io, DIRECTORY / f"{case}.io.safetensors")
        cases[case] = max(1e-3, float(y.abs().max()))
    return module, x


def tiny(node, inputs=(("x", TensorProto.FLOAT, ["batch", 4]),), opset=20, domain=""):
    """A model of one operator."""
    values = [helper.make_tensor_value_info(*i) for i in inputs]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph([node], "tiny", values, [y], [weight])
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports)


def write_refused():
    refused = {}

    def add(name, model, code, why):
        onnx.save(model, DIRECTORY / name)
        refused[name] = [code, why]

    node = helper.make_node
    add("operator.onnx", tiny(node("Hardmax", ["x"], ["y"], name="n7")), "UNIMPLEMENTED",
        "node 'n7' (Hardmax): the operator is not supported")
    add("opset.onnx", tiny(node("Relu", ["x"], ["y"]), opset=9), "UNIMPLEMENTED", "opset 9")
    add("domain.onnx", tiny(node("Relu", ["x"], ["y"], domain="com.own"), domain="com.own"),
        "UNIMPLEMENTED", "domain 'com.own'")
    add("undefined.onnx", tiny(node("Add", ["x", "nowhere"], ["y"])), "INVALID_ARGUMENT",
        "got 'nowhere'")
    add("axis.onnx", tiny(node("Softmax", ["x"], ["y"], axis=5)), "INVALID_ARGUMENT",
        "expected an axis of 2 dimensions, got 5")
    add("mode.onnx", tiny(node("Pad", ["x", "p"], ["y"], mode="wrap"),
                          inputs=(("x", TensorProto.FLOAT, ["batch", 4]),
                                  ("p", TensorProto.INT64, [4]))),
        "UNIMPLEMENTED", "input 1 'p' that is neither constant nor calculated from sizes")
    branch = helper.make_graph(
        [node("Relu", ["x"], ["z"])], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    add("branch.onnx", tiny(node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
                            inputs=(("x", TensorProto.FLOAT, ["batch", 4]),
                                    ("c", TensorProto.BOOL, []))),
        "UNIMPLEMENTED", "control flow is not supported")
    (DIRECTORY / "refused.json").write_text(json.dumps(refused))
    onnx.save(tiny(node("Add", ["x", "w"], ["y"], name="sum")), DIRECTORY / "tiny.onnx")


def image_size(name):
    small = ("alexnet", "densenet", "efficientnet", "mnasnet", "mobilenet", "regnet", "resne",
             "shufflenet", "squeezenet", "vgg", "wide_resnet", "convnext")
    return 64 if name.startswith(small) and name != "alexnet" else 224


def torchvision_net(name):
    if name in ("googlenet", "inception_v3"):
        return lambda: getattr(tv, name)(init_weights=False)
    return getattr(tv, name)


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    cases, failures = {}, {}
    names = sys.argv[2:]
    if names == ["all"]:
        names = tv.list_models(module=tv)
    for name in names:
        size = image_size(name)
        write(name, torchvision_net(name), (2, 3, size, size), cases, failures)
    if not names:
        for name, (make, shape) in SMALL.items():
            module, x = write(name, make, shape, cases, failures)
            if name == "mlp":
                new = fresh(make, 2)
                torch.save(new.state_dict(), DIRECTORY / "mlp.pth")
                with torch.inference_mode():
                    io = {"output.y": new(x).clone()}
                safetensors.torch.save_file(io, DIRECTORY / "mlp.new.safetensors")
        write_refused()
    (DIRECTORY / "cases.json").write_text(json.dumps(cases))
    for name, why in failures.items():
        print(f"{name}: the exporter failed: {why}")


main()
