"""Programs that say what is computed, and weights beside them that are swapped like any others."""

import concurrent.futures
import io
import os
import re

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import constant, place, replace, save
from serving import run_sconce, wait_until
from torch import nn
from traffic import Traffic
from tritonclient.grpc import InferInput
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
        return 2 * self.out(torch.sin(input) * self.scale)


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


def script(net, path):
    beside = path.with_name(".new.pt")
    torch.jit.script(net.eval()).save(str(beside))
    os.replace(beside, path)
    return path


def onnx(net, path):
    beside = path.with_name(".new.onnx")
    torch.onnx.export(net.eval(), (torch.zeros(2, 4),), beside, dynamo=False,
                      input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})  # fmt: skip
    os.replace(beside, path)
    return path


DECLARED = """
max_batch_size: 64
input { name: "input" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "output" data_type: TYPE_FP32 dims: [ 4 ] }
"""


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


@pytest.mark.parametrize(
    "write, name", [(export, "model.pt2"), (onnx, "model.onnx"), (script, "model.pt")])  # fmt: skip
def test_a_program_pushed_with_other_weights_is_the_same_network(serve, repository, write, name):
    # The exporter to ONNX writes equal tensors once: none are.
    path = write(odd(3), place(repository, "m", name))
    (repository / "m" / "config.pbtxt").write_text(DECLARED + "swap { mode: IN_PLACE }")
    server = serve()
    write(odd(2), path)
    wait_value(server, 2)
    assert "written over the weights of version 1" in server.log()
    write(odd(2, OddTwice), path)
    wait_value(server, 4)
    assert "written over the weights of version 2" not in server.log()
    assert len(set(re.findall(r'version \d serves .*?program="(\w+)"', server.log()))) == 2


def test_torchscript_without_declared_inputs_is_taken_for_weights(serve, repository):
    """TorchScript does not say what its inputs are; the weights of a known network do."""
    path = script(constant(1), place(repository, "m", "model.pt"))
    server = serve()
    assert value_of(server) == 1
    assert log_line(server, r"linear\(.*taken for weights: TorchScript does not say its inputs")
    save(constant(2), path)
    wait_value(server, 2)
    script(odd(3), path)
    wait_until(lambda: log_line(server, "write the inputs and outputs into config.pbtxt"),
               "what to declare", 30)  # fmt: skip
    assert value_of(server) == 2


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


class Pair(nn.Module):
    """Sizes of one input are those of another, and twice those; the batch is beside them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, left, right, twice):
        both = (left + right) * self.scale
        return both.sum(1, keepdim=True) + twice.sum(1, keepdim=True)


def export_pair(path):
    length = torch.export.Dim("length", min=2, max=64)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Pair().eval(), (torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 16)),
        dynamic_shapes={"left": {0: batch, 1: length}, "right": {0: batch, 1: length},
                        "twice": {0: batch, 1: 2 * length}})
    torch.export.save(program, path)
    return path


def ask_pair(server, left, right, twice, rows=1):
    inputs = []
    for name, size in [("left", left), ("right", right), ("twice", twice)]:
        inputs.append(InferInput(name, [rows, size], "FP32"))
        inputs[-1].set_data_from_numpy(np.ones((rows, size), np.float32))
    with server.client() as client:
        result = client.infer("m", inputs)
    output = result.get_response().outputs[0].name
    return result.as_numpy(output).tolist()


def refusal_of_pair(server, *sizes):
    with pytest.raises(InferenceServerException) as error:
        ask_pair(server, *sizes)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT", error.value
    return error.value.message()


def test_sizes_that_depend_on_one_another_are_the_clients_matter(serve, repository):
    export_pair(place(repository, "m", "program.pt2"))
    server = serve()
    assert ask_pair(server, 5, 5, 10, rows=2) == [[20], [20]]
    message = refusal_of_pair(server, 5, 7, 10)
    assert message == ("m/1: input 'right' has size 7 in dimension 1, input 'left' has size 5 in "
                       "dimension 1; expected 5 of input 'right'")
    assert refusal_of_pair(server, 5, 5, 12).endswith(
        "input 'left' has size 5 in dimension 1; expected 10 of input 'twice'")
    assert "expected 10 of input 'twice'" in refusal_of_pair(server, 5, 5, 11)
    assert "[-1,2..64]" in refusal_of_pair(server, 65, 65, 130)


def test_one_requests_sizes_are_no_matter_of_others(serve, repository):
    """Requests that come together share batches; a wrong one fails alone."""
    export_pair(place(repository, "m", "program.pt2"))
    server = serve()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        good = [pool.submit(ask_pair, server, 5, 5, 10) for _ in range(100)]
        bad = [pool.submit(refusal_of_pair, server, 5, 7, 10) for _ in range(100)]
        assert all(answer.result() == [[20]] for answer in good)
        assert all("expected 5" in answer.result() for answer in bad)


def test_rows_that_are_a_dimension_like_others_are_the_same_of_all_inputs(serve, repository):
    export_pair(place(repository, "m", "program.pt2"))
    (repository / "m" / "config.pbtxt").write_text("max_batch_size: 0")
    server = serve()
    assert ask_pair(server, 5, 5, 10, rows=3) == [[20]] * 3
    inputs = []
    for name, shape in [("left", [2, 4]), ("right", [3, 4]), ("twice", [2, 8])]:
        inputs.append(InferInput(name, shape, "FP32"))
        inputs[-1].set_data_from_numpy(np.ones(shape, np.float32))
    with server.client() as client:
        with pytest.raises(InferenceServerException, match="expected 2 of input 'right'"):
            client.infer("m", inputs)


def test_a_program_that_takes_fewer_sizes_does_not_take_over(serve, repository):
    """Two inputs of any sizes, then two of the same."""

    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, left, right):
            return left.sum(1, keepdim=True) + right.sum(1, keepdim=True) * self.scale

    def export_free(right):
        batch, left = torch.export.Dim("batch", min=1), torch.export.Dim("l", min=2, max=64)
        program = torch.export.export(
            Free().eval(), (torch.zeros(2, 8), torch.zeros(2, 8)),
            dynamic_shapes={"left": {0: batch, 1: left},
                            "right": {0: batch, 1: left if right is None else right}})
        torch.export.save(program, path.with_name(".new.pt2"))
        os.replace(path.with_name(".new.pt2"), path)

    path = place(repository, "m", "program.pt2")
    export_free(torch.export.Dim("r", min=2, max=64))
    server = serve()
    export_free(None)
    wait_until(lambda: "would take fewer sizes in dimension 1" in server.log(), "the refusal", 30)


def told(command, path):
    done = run_sconce(command, path, patience=60)
    assert done.returncode in (0, 1), done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("file, says", [
    ("model.pt", r"linear.*taken for weights: TorchScript does not say its inputs"),
    ("program.pt2", r"exported program program\.pt2 with its own weights"),
    ("any.pt2", r"exported program any\.pt2 with its own weights"),
    ("any.onnx", r"ONNX graph any\.onnx with its own weights"),
])  # fmt: skip
def test_tools_say_of_file_and_folder_what_the_server_does(tmp_path, file, says):
    path = tmp_path / file
    {".pt": script, ".pt2": export, ".onnx": onnx}[path.suffix](constant(1), path)
    for given in (path, tmp_path):
        assert re.search("would load as " + says, told("check", given)), told("check", given)
        assert re.search(says, told("inspect", given))
        assert "linear" in told("summary", given).lower()


@pytest.mark.parametrize("bad, says", [
    ("empty", r"program\.pt2: expected a program .*got something else: expected a checkpoint, got "
              r"an empty file"),
    ("weights", r"program\.pt2: expected a program .*got weights alone \(torch\.save zip"),
    ("other", r'Missing key\(s\) in state_dict: "scale"'),
    ("cut", r"program\.onnx: expected a program .*got something else: expected a field of at most"),
])  # fmt: skip
def test_check_says_what_is_wrong_with_a_program(tmp_path, bad, says):
    save(constant(1), tmp_path / "model.pth")
    if bad == "empty":
        (tmp_path / "program.pt2").touch()
    elif bad == "weights":
        save(constant(1), tmp_path / "program.pt2")
    elif bad == "other":
        export(odd(1), tmp_path / "program.pt2")
    else:
        whole = onnx(odd(1), tmp_path / "program.onnx").read_bytes()
        (tmp_path / "program.onnx").write_bytes(whole[: len(whole) // 2])
    for given in (tmp_path, tmp_path / "model.pth"):
        assert re.search(says, told("check", given)), told("check", given)
