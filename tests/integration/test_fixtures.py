"""The checkpoints people have, as Python's torch writes them, served without configuration and
answered as Python answers."""

import checkpoints
import numpy as np
import pytest
import torch
import torchvision
from checkpoints import place, save, seeded
from serving import wait_until
from torch import nn


@pytest.fixture(params=["pth", "safetensors"])
def container(request):
    return request.param


def check(server, model, net, dims, batches=(1,)):
    for rows in batches:
        images = checkpoints.random_images(rows, *dims, seed=rows)
        answer = server.infer(model, images)
        np.testing.assert_array_equal(answer.array, checkpoints.expected(net, images))


IMAGE = (3, 224, 224)


def test_resnet50_fine_tuned_to_ten_classes(serve, repository, container):
    net = seeded(lambda: torchvision.models.resnet50(num_classes=10))
    save(net, place(repository, "resnet50", f"savedModel_weights.{container}"))
    check(serve(), "resnet50", net, IMAGE, batches=(1, 2))


def test_resnet18(serve, repository, container):
    net = checkpoints.resnet18(classes=1000)
    save(net, place(repository, "resnet18", f"model.{container}"))
    check(serve(), "resnet18", net, IMAGE)


def test_vgg16(serve, repository, container):
    net = seeded(lambda: torchvision.models.vgg16(num_classes=1000))
    save(net, place(repository, "vgg16", f"model.{container}"))
    check(serve(), "vgg16", net, IMAGE)


def test_general_checkpoint_of_a_linear(serve, repository):
    net = checkpoints.linear(10, 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 5,
            "model_state_dict": net.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": 0.25,
        },
        place(repository, "linear"),
    )
    check(serve(), "linear", net, (10,), batches=(1, 3))


def test_linear_as_safetensors(serve, repository):
    net = checkpoints.linear(10, 1)
    save(net, place(repository, "linear", "model.safetensors"))
    check(serve(), "linear", net, (10,), batches=(1, 3))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "args": {"lr": 0.1}},
        lambda state: {"module." + name: tensor for name, tensor in state.items()},
        lambda state: {"_orig_mod." + name: tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {"module." + name: t for name, t in state.items()}},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
        lambda state: {name: tensor.t().contiguous().t() for name, tensor in state.items()},
        lambda state: {name: nn.Parameter(tensor) for name, tensor in state.items()},
    ],
    ids=["state_dict", "model", "module.", "_orig_mod.", "both", "float64", "strided", "parameters"],
)
def test_wrappings_met_in_the_wild(serve, repository, wrap):
    net = checkpoints.mlp((6, 8, 4))
    torch.save(wrap(net.state_dict()), place(repository, "m"))
    check(serve(), "m", net, (6,), batches=(1, 2))


def test_a_network_that_is_a_part_of_somebodys_own_module(serve, repository):
    """A checkpoint of a module whose only part is the network; then one of the network alone."""
    net = checkpoints.resnet18()
    state = {"backbone.net." + name: tensor for name, tensor in net.state_dict().items()}
    path = place(repository, "m")
    torch.save({"state_dict": state}, path)
    server = serve()
    check(server, "m", net, IMAGE)
    assert 'all names begin with "backbone.net."' in server.log()
    other = checkpoints.resnet18(seed=2)
    checkpoints.replace(path, other)
    images = checkpoints.random_images(1, *IMAGE)
    wait_until(lambda: server.infer("m", images).version == 2, "the network's own weights")
    check(server, "m", other, IMAGE)


def test_tied_weights_and_views_of_one_storage(serve, repository):
    """Two names of one tensor, and tensors that are slices of a larger storage."""
    net = checkpoints.mlp((8, 8, 8))
    net[2].weight = net[0].weight
    pool = torch.zeros(100)
    pool[30:38] = net[0].bias.detach()
    state = net.state_dict()
    state["0.bias"] = pool[30:38]
    torch.save(state, place(repository, "m"))
    check(serve(), "m", net, (8,))


def test_the_demos_digits(serve, repository):
    import shutil

    from serving import ROOT

    shutil.copyfile(ROOT / "demo" / "digits_full.pth", place(repository, "digits"))
    data = np.load(ROOT / "demo" / "digits_test.npz")
    images = (data["images"].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    server = serve()
    right = 0
    for start in range(0, len(images), 50):
        answer = server.infer("digits", images[start : start + 50])
        right += int((answer.array.argmax(1) == data["labels"][start : start + 50]).sum())
    assert right / len(images) >= 0.97


def test_all_at_once_with_a_name_each(serve, repository):
    """Several architectures side by side in one server."""
    nets = {
        "small": (checkpoints.linear(10, 1), (10,)),
        "middle": (checkpoints.mlp((6, 8, 4)), (6,)),
        "alexnet": (seeded(lambda: torchvision.models.alexnet(num_classes=7)), IMAGE),
        "vgg11_bn": (seeded(lambda: torchvision.models.vgg11_bn(num_classes=3)), IMAGE),
        "resnext": (seeded(lambda: torchvision.models.resnext50_32x4d(num_classes=5)), IMAGE),
    }
    for name, (net, _) in nets.items():
        save(net, place(repository, name))
    server = serve()
    for name, (net, dims) in nets.items():
        check(server, name, net, dims)
