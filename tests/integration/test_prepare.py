"""Networks that are prepared after a strict load: batch norms folded, other numbers, another layout.
What that changes is measured and said."""

import json
import re

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import place, replace, resnet18, save
from serving import DEVICE, infer, run_sconce, wait_until

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


def deviations(server, version):
    """What /metrics says of that version, by measure."""
    return {measure: server.metric("sconce_prepared_deviation", model="net", version=str(version),
                                   measure=measure)
            for measure in ("absolute", "relative")}


@pytest.mark.parametrize("swap", ["BESIDE", "IN_PLACE"])
def test_each_load_is_measured_and_told_of(serve, repository, swap):
    path = save(resnet18(seed=1), place(repository, "net"))
    configure(repository, SIZE + "max_batch_size: 2\nprecision: BF16\n"
                                 f"swap {{ mode: {swap} retain_versions: 0 }}\n")
    server = serve()
    first = deviations(server, 1)
    assert 0 < first["relative"] < 0.1 and 0 < first["absolute"]

    replace(path, resnet18(seed=2))
    wait_until(lambda: server.metric("sconce_serving_version_info", version="2") == 1,
               "the new weights")
    second = deviations(server, 2)
    assert 0 < second["relative"] < 0.1 and second["absolute"] != first["absolute"]
    # What no longer answers has no series.
    assert deviations(server, 1) == {"absolute": 0, "relative": 0}
    assert len(re.findall("differs from FP32 on the CPU by at most", server.log())) == (
        2 * len(server.admin("Status", model="net").models[0].versions[-1].prepared))

    done = run_sconce("ctl", "--server", server.grpc_address, "status", "net", "--json")
    prepared = json.loads(done.stdout)["models"][0]["versions"][-1]["prepared"]
    assert sum(entry["absolute"] for entry in prepared) == pytest.approx(second["absolute"])
    assert all(entry["not_measured"] is None for entry in prepared)
    shown = run_sconce("ctl", "--server", server.grpc_address, "status", "net").stdout
    assert re.search(r"on (cpu|sim:\d) prepared: outputs differ by at most \d", shown), shown


def test_folding_before_the_cast_is_nearer_than_the_cast_alone_is_far(serve, repository):
    net = resnet18()
    save(net, place(repository, "net"))
    configure(repository,
              SIZE + "max_batch_size: 2\nprecision: BF16\nfold_batch_norm: true\n")
    server = serve()
    assert "folded 20 batch norms" in server.log()
    images = checkpoints.random_images(*IMAGES)
    expected = checkpoints.expected(net, images)
    assert largest_difference(server.infer("net", images).array, expected) < 0.1
    assert 0 < deviations(server, 1)["relative"] < 0.1


def test_what_is_only_folded_is_told_of_too(serve, repository):
    save(resnet18(), place(repository, "net"))
    configure(repository, SIZE + "max_batch_size: 2\nfold_batch_norm: true\n")
    server = serve()
    assert 0 < deviations(server, 1)["relative"] < 1e-3
    replace(place(repository, "net"), resnet18(seed=2))
    wait_until(lambda: server.metric("sconce_serving_version_info", version="2") == 1,
               "the new weights")
    assert 0 < deviations(server, 2)["relative"] < 1e-3
    (place(repository, "net").parent / "config.pbtxt").write_text(SIZE + "max_batch_size: 2\n")
    wait_until(lambda: server.metric("sconce_serving_version_info", version="3") == 1,
               "the version that is not prepared")
    assert server.metric("sconce_prepared_deviation", model="net") == 0


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
