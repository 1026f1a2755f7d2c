"""Networks that are prepared after a strict load: batch norms folded, other numbers, another layout.
What that changes is measured and said."""

import re

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import place, replace, resnet18, save
from serving import DEVICE, infer, wait_until

SIZE = 'architecture { name: "resnet18" parameters { key: "image_size" value: "64" } }\n'
IMAGES = (2, 3, 64, 64)


def configure(repository, text, model="net"):
    place(repository, model, "config.pbtxt").write_text(text)


def largest_difference(answer, expected):
    return np.abs(answer - expected).max() / np.abs(expected).max()


def test_folded_networks_answer_as_before_and_are_swapped(serve, repository):
    old, new = resnet18(seed=1), resnet18(seed=2)
    path = save(old, place(repository, "net"))
    configure(repository, SIZE + "max_batch_size: 2\nfold_batch_norm: true\n")
    server = serve()
    images = checkpoints.random_images(*IMAGES)
    answer = server.infer("net", images)
    expected = checkpoints.expected(old, images)
    assert largest_difference(answer.array, expected) < 1e-4
    # 20 norms, each rounding otherwise: not the very same bits.
    assert not np.array_equal(answer.array, expected)
    device = "cpu" if DEVICE == "cpu" else r"sim:\d"
    said = re.findall(
        rf"{device} folded 20 batch norms, which changes outputs by at most (\S+), which is (\S+) of",
        server.log())
    assert said
    for absolute, relative in said:
        assert 0 < float(relative) < 1e-4 and 0 < float(absolute)

    replace(path, new)
    expected = checkpoints.expected(new, images)
    wait_until(lambda: largest_difference(server.infer("net", images).array, expected) < 1e-4,
               "the new weights, folded")


def test_a_network_without_pairs_is_left_as_it_is(serve, repository):
    net = checkpoints.linear()
    save(net, place(repository, "net"))
    configure(repository, "fold_batch_norm: true\n")
    server = serve()
    rows = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(server.infer("net", rows).array, checkpoints.expected(net, rows))
    assert "no batch norm follows a convolution" in server.log()


def test_folding_and_writing_over_weights_exclude_each_other(serve, repository):
    save(resnet18(), place(repository, "net"))
    configure(repository, SIZE + "swap { mode: IN_PLACE retain_versions: 0 }\nfold_batch_norm: true\n")
    server = serve(wait_ready=False)
    wait_until(lambda: "fold_batch_norm: expected swap { mode: BESIDE }" in server.log(),
               "the refusal")


def test_other_numbers_are_compared_with_fp32(serve, repository):
    net = resnet18()
    save(net, place(repository, "net"))
    configure(repository, SIZE + "max_batch_size: 2\nprecision: BF16\nchannels_last: true\n")
    server = serve()
    images = checkpoints.random_images(*IMAGES)
    expected = checkpoints.expected(net, images)
    difference = largest_difference(server.infer("net", images).array, expected)
    found = re.search(r"differs from FP32 on the CPU by at most (\S+), which is (\S+) of",
                      server.log())
    assert found
    # Of other inputs, so of the same order alone.
    assert 0.01 < float(found[2]) / difference < 100


@pytest.mark.any_device
def test_a_program_is_folded_too(serve, repository):
    net = resnet18().eval()
    program = torch.export.export(
        net, (torch.zeros(2, 3, 64, 64),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    torch.export.save(program, place(repository, "net", "program.pt2"))
    save(net, place(repository, "net"))
    configure(repository, "max_batch_size: 2\nfold_batch_norm: true\n")
    server = serve()
    images = checkpoints.random_images(*IMAGES)
    with server.client() as client:
        name = client.get_model_metadata("net").inputs[0].name
        answer = infer(client, "net", images, input_name=name)
    assert largest_difference(answer.array, checkpoints.expected(net, images)) < 1e-4
    assert "cpu folded 20 batch norms" in server.log()
