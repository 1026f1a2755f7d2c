"""Programs that say what is computed, and weights beside them that are swapped like any others."""

import io
import os
import re

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import constant, place, replace, save
from serving import wait_until
from torch import nn
from traffic import Traffic
from tritonclient.utils import InferenceServerException


class Odd(nn.Module):
    """No catalog has it."""

    def __init__(self, inputs=4, outputs=4):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(inputs))
        self.out = nn.Linear(inputs, outputs)

    def forward(self, input):
        return self.out(torch.sin(input) * self.scale)


class OddTwice(Odd):
    """The same weights, other answers."""

    def forward(self, input):
        return 2 * super().forward(input)


class Wrapped(nn.Module):
    """As people export: every name of the state_dict begins with "model."."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input):
        return self.model(input)


def odd(value, kind=Odd):
    """Every output is exactly `value` (OddTwice: twice that)."""
    net = kind()
    nn.init.zeros_(net.out.weight)
    nn.init.constant_(net.out.bias, float(value))
    return net


def export(net, path, inputs=4):
    """torch.export with any batch from 1 on, renamed into place."""
    rows = torch.zeros(2, inputs)
    dynamic = {"input": {0: torch.export.Dim("batch", min=1, max=256)}}
    program = torch.export.export(net.eval(), (rows,), dynamic_shapes=dynamic)
    beside = path.with_name(".new.pt2")
    torch.export.save(program, beside)
    os.replace(beside, path)
    return path


def bytes_of(net):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    return file.getvalue()


def value_of(server, model="m"):
    array = server.infer(model, np.zeros((1, 4), np.float32)).array
    assert np.all(array == array.flat[0])
    return array.flat[0]


def wait_value(server, value, model="m"):
    wait_until(lambda: value_of(server, model) == value, f"{model} to answer {value}", 30)


def log_line(server, pattern):
    return re.search(pattern, server.log())


def test_weights_beside_a_program_are_swapped_under_load(serve, repository):
    """Programs are no exception to what swaps promise; each answer is one version's."""
    export(odd(0), place(repository, "m", "program.pt2"))
    path = save(odd(0), place(repository, "m", "model.safetensors"))
    server = serve()
    with Traffic(server, "m", lambda rows: np.ones((rows, 4), np.float32)) as traffic:
        for swap in range(1, 11):
            replace(path, odd(swap))
            traffic.wait_for_output(swap)
    assert sorted(traffic.check_constant_outputs().values()) == list(range(11))
    traffic.check_versions_only_rise()
    assert log_line(server, r"exported program program\.pt2, weights model\.safetensors")


def test_answers_are_pythons(serve, repository):
    net = checkpoints.seeded(Odd)
    export(Odd(), place(repository, "m", "program.pt2"))
    save(net, place(repository, "m", "model.pth"))
    server = serve()
    batch = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    assert np.array_equal(server.infer("m", batch).array, checkpoints.expected(net, batch))


@pytest.mark.parametrize("name", ["program.pt2", "anything.pt2"])
def test_a_program_alone_is_its_own_weights(serve, repository, name):
    path = export(odd(1), place(repository, "m", name))
    server = serve()
    assert value_of(server) == 1
    export(odd(2), path)
    wait_value(server, 2)
    assert log_line(server, rf"exported program {re.escape(name)} with its own weights")


def test_a_changed_program_is_a_new_version(serve, repository):
    path = export(odd(3), place(repository, "m", "program.pt2"))
    save(odd(3), place(repository, "m", "model.pth"))
    server = serve()
    first = server.infer("m", np.zeros((1, 4), np.float32))
    export(odd(0, OddTwice), path)
    wait_value(server, 6)
    second = server.infer("m", np.zeros((1, 4), np.float32))
    assert (first.weights_id, second.version) == (second.weights_id, 2)
    # The weights are the same, the version before is not: it is retained.
    server.admin("Rollback", model="m")
    assert value_of(server) == 3


def test_in_place_swaps_need_the_same_program(serve, repository):
    path = export(odd(1), place(repository, "m", "program.pt2"))
    weights = save(odd(1), place(repository, "m", "model.pth"))
    (repository / "m" / "config.pbtxt").write_text("swap { mode: IN_PLACE }")
    server = serve()
    replace(weights, odd(2))
    wait_value(server, 2)
    assert "written over the weights of version 1" in server.log()
    export(odd(0, OddTwice), path)
    wait_value(server, 4)
    assert "written over the weights of version 2" not in server.log()


def test_weights_that_do_not_fit_the_program_are_refused(serve, repository):
    export(odd(1), place(repository, "m", "program.pt2"))
    path = save(odd(1), place(repository, "m", "model.pth"))
    server = serve()
    replace(path, constant(5))
    wait_until(lambda: log_line(server, "refused"), "the refusal", 30)
    assert log_line(server, r'Missing key\(s\) in state_dict: "scale"')
    assert value_of(server) == 1


def test_a_program_that_is_damaged_is_named(serve, repository):
    place(repository, "m", "program.pt2").write_bytes(b"not a program at all")
    save(odd(1), place(repository, "m", "model.pth"))
    server = serve(wait_ready=False)
    wait_until(lambda: "expected a program" in server.reason("m"), "the reason", 30)
    assert "program.pt2" in server.reason("m")


def test_names_that_look_like_a_wrappers_may_be_the_programs(serve, repository):
    export(Wrapped(odd(1)), place(repository, "a", "program.pt2"))
    path = save(Wrapped(odd(1)), place(repository, "a", "model.pth"))
    # The state_dict of the network within does as well.
    export(Wrapped(odd(1)), place(repository, "b", "program.pt2"))
    save(odd(2), place(repository, "b", "model.pth"))
    server = serve()
    assert (value_of(server, "a"), value_of(server, "b")) == (1, 2)
    replace(path, Wrapped(odd(3)))
    wait_value(server, 3, "a")


def test_an_architecture_that_is_configured_wins(serve, repository):
    export(constant(1), place(repository, "m", "model.pt2"))
    (repository / "m" / "config.pbtxt").write_text('architecture { name: "linear" }')
    server = serve()
    assert value_of(server) == 1
    assert log_line(server, r"linear\(.*as configured")


def test_numbered_folders_share_the_models_program(serve, repository):
    export(odd(0), place(repository, "m", "program.pt2"))
    for number in (1, 2):
        save(odd(number), place(repository, f"m/{number}"))
    server = serve()
    assert value_of(server) == 2


def test_a_client_may_bring_weights_and_a_program(serve, repository, tmp_path):
    export(odd(1), place(repository, "m", "program.pt2"))
    save(odd(1), place(repository, "m", "model.pth"))
    server = serve("--inline-weights-max-bytes", "1000000")
    server.load("m", files={"model.pth": bytes_of(odd(5))})
    assert value_of(server) == 5  # the folder's program
    program = export(odd(0, OddTwice), tmp_path / "other.pt2").read_bytes()
    server.load("m", files={"program.pt2": program, "model.pth": bytes_of(odd(5))})
    assert value_of(server) == 10
    server.load("m", files={"program.pt2": program})
    assert value_of(server) == 2  # the folder's weights
    with pytest.raises(Exception, match="got two weights files: 'a.pth' and 'b.pth'"):
        server.load("m", files={"a.pth": bytes_of(odd(1)), "b.pth": bytes_of(odd(2))})


def test_what_the_program_refuses_is_the_clients_error(serve, repository):
    export(odd(1), place(repository, "m", "program.pt2"))
    save(odd(1), place(repository, "m", "model.pth"))
    server = serve()
    with pytest.raises(InferenceServerException, match="4"):
        server.infer("m", np.zeros((1, 5), np.float32))
    assert value_of(server) == 1
