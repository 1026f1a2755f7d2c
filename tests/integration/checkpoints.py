"""Networks and the files Python's torch writes of them."""

import os
import pathlib
import shutil

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn


def use_one_thread():
    torch.set_num_threads(1)


def expected(net, array):
    """What Python's torch answers, on one thread, for exactly this batch. The batch is copied into
    memory of torch's own: the last bits of a matrix product depend on how its operands are aligned,
    and numpy aligns less."""
    net.eval()
    with torch.inference_mode():
        batch = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).clone()
        return net(batch).numpy()


def seeded(make, seed=0):
    """make() with reproducible weights. BatchNorm statistics are made different from their
    defaults, so that a server that ignored them would be caught."""
    torch.manual_seed(seed)
    net = make()
    generator = torch.Generator().manual_seed(seed + 1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def linear(inputs=4, outputs=3, seed=0):
    return seeded(lambda: nn.Linear(inputs, outputs), seed)


def mlp(sizes=(16, 32, 32, 5), seed=0):
    layers = []
    for position, (before, after) in enumerate(zip(sizes, sizes[1:])):
        layers += [nn.ReLU()] if position else []
        layers += [nn.Linear(before, after)]
    return seeded(lambda: nn.Sequential(*layers), seed)


def resnet18(classes=10, seed=0):
    return seeded(lambda: torchvision.models.resnet18(num_classes=classes), seed)


# What config.pbtxt says of declared().
DECLARED = """architecture {
  name: "sequential"
  input { dims: [2, -1] }
  layers { conv1d { out_channels: 4 kernel_size: 3 } }
  layers { relu {} }
  layers { adaptive_avg_pool1d { output_size: 1 } }
  layers { flatten {} }
  layers { linear { out_features: 3 } }
}"""


def declared(seed=0):
    """A network that no catalog has: of signals of two channels and any length."""
    return seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
                                        nn.Flatten(), nn.Linear(4, 3)), seed)  # fmt: skip


# What config.pbtxt says of recurrent(), which has batches of one row.
RECURRENT = """max_batch_size: 1
architecture {
  name: "sequential"
  input { dims: [-1, 1] }
  layers { name: "lstm" lstm { hidden_size: 128 num_layers: 4 output: LAST } }
}
"""


def recurrent(seed=0):
    """A network that takes as long as its input is: one step comes after the other."""
    return seeded(lambda: nn.ModuleDict({"lstm": nn.LSTM(1, 128, 4)}), seed)


def sequence(steps):
    """What it is asked: LONGEST keeps a processor busy for two seconds."""
    return np.zeros((1, steps, 1), np.float32)


LONGEST = 65_536


def constant(value, inputs=4, outputs=4):
    """A Linear whose every output is exactly `value`: each row of an answer tells its version."""
    net = nn.Linear(inputs, outputs)
    nn.init.zeros_(net.weight)
    nn.init.constant_(net.bias, float(value))
    return net


def constant_mlp(value, width=512, depth=3, outputs=4):
    """The same with megabytes of weights that matter to nobody."""
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    layers.append(constant(value, width, outputs))
    return nn.Sequential(*layers)


def random_images(rows, *dims, seed=0):
    return np.random.default_rng(seed).random((rows, *dims), dtype=np.float32)


# Files -------------------------------------------------------------------------------------------


def place(repository, model, file_name="model.pth"):
    """The path of a model's weights file, its folder made."""
    path = pathlib.Path(repository) / model / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(net, path):
    """torch.save of the state_dict, or safetensors by the name's end; written in place."""
    state = net.state_dict() if isinstance(net, nn.Module) else net
    if str(path).endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(path))
    else:
        torch.save(state, path)
    return path


def replace(path, net):
    """Writes beside and renames over, as a careful trainer does."""
    beside = path.with_name(f".{path.stem}.new{path.suffix}")
    save(net, beside)
    os.replace(beside, path)
