"""Models that are swapped while they are measured: each file has weights of its own, and makes
every element of every answer one number that tells the file."""

import os
import pathlib
import time

import torch
import torchvision
from safetensors.torch import save_file

# One answers, one is kept for a rollback, and the one that comes next is new to the server.
FILES = 3


def linear():
    return torch.nn.Linear(16, 16)


def mlp(width, depth):
    layers = []
    for _ in range(depth):
        layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 4))


def resnet(name):
    return getattr(torchvision.models, name)()


def last_layer(net):
    return [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]


def set_answer(net, value):
    last = last_layer(net)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, float(value))


def scaled(state, factor):
    """Other numbers everywhere."""
    return {name: tensor * factor if tensor.is_floating_point() else tensor
            for name, tensor in state.items()}


def differing_bytes(before, after):
    return sum(tensor.nbytes for name, tensor in after.items()
               if not torch.equal(tensor, before[name]))


class Model:
    """A model of the repository whose file is replaced by renaming another one over it."""

    def __init__(self, repository, name, config=""):
        self.name = name
        self.path = pathlib.Path(repository) / name / "model.safetensors"
        self.path.parent.mkdir(parents=True)
        if config:
            (self.path.parent / "config.pbtxt").write_text(config)
        self.version = 0

    def swap(self):
        """Makes another file the model's; when, on the monotonic clock."""
        beside = self.path.with_name(".model.new.safetensors")
        self.put(beside)
        self.version += 1
        changed = time.monotonic_ns()
        os.replace(beside, self.path)
        return changed


class SwappedModel(Model):
    """Files that take turns. Version n is file number (n - 1) % FILES, so that its answers are
    known."""

    def __init__(self, repository, shelf, name, make, config=""):
        super().__init__(repository, name, config)
        self.shelf = pathlib.Path(shelf) / name
        self.shelf.mkdir(parents=True)
        with torch.no_grad():
            torch.manual_seed(0)
            net = make()
            base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            before = None
            for number in range(FILES):
                net.load_state_dict(scaled(base, 1 + number / 1000))
                set_answer(net, self.answer(number + 1))
                state = net.state_dict()
                save_file(state, self.shelf / str(number))
                if before is None:
                    before = {name: tensor.clone() for name, tensor in state.items()}
            self.changed_bytes = differing_bytes(before, state)
        self.swap()

    def answer(self, version):
        """What version number `version` says; an array of versions gives an array."""
        return (version - 1) % FILES + 1

    def put(self, path):
        os.link(self.shelf / str(self.version % FILES), path)


class CountingModel(Model):
    """The tiny network with a new file for every version; version n answers n."""

    def __init__(self, repository, name):
        super().__init__(repository, name)
        self.swap()

    def answer(self, version):
        return version

    def put(self, path):
        net = linear()
        set_answer(net, self.version + 1)
        save_file(net.state_dict(), path)


class HeadModel(Model):
    """A network whose files differ from the ones before by turns in everything and in the last
    layer alone. Every head is one that was not there before."""

    def __init__(self, repository, shelf, name, make, config):
        super().__init__(repository, name, config)
        self.shelf = pathlib.Path(shelf) / name
        self.shelf.mkdir(parents=True)
        with torch.no_grad():
            torch.manual_seed(0)
            net = make()
            base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            for number in range(2 * FILES):
                net.load_state_dict(scaled(base, 1 + number // 2 / 1000))
                torch.nn.init.normal_(last_layer(net).weight)
                save_file(net.state_dict(), self.shelf / str(number))
            self.bytes = sum(tensor.nbytes for tensor in base.values())
            self.head_bytes = last_layer(net).weight.nbytes
        self.swap()

    def put(self, path):
        os.link(self.shelf / str(self.version % (2 * FILES)), path)
