"""Exported programs answer as the modules they were made from, bit for bit, and as PyTorch's own
runner does; what cannot be run is refused by name. scripts/programs does all in full size."""

import copy
import json
import pathlib
import random
import zipfile

import pytest
import torch
from program_answers import ProgramAnswers, ProgramCase
from program_cases import Counted, Counter, Sizes, Tied, batch, normal, quick_cases
from torch import nn
from torch.export import Dim

CASES = quick_cases()


@pytest.fixture(scope="module")
def answers():
    with ProgramAnswers() as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_answers_are_those_of_python(answers, case):
    row = answers.compare(case)
    if row.exported:
        pytest.skip(f"torch.export refuses it: {row.exported[:200]}")
    if case.refused:
        assert case.refused in row.error and "node" in row.error, row
        return
    assert not row.error, row.error
    if case.otherwise:
        assert row.deviation <= case.tolerance, row
    else:
        assert row.equal, row
    if case.nativert:
        assert row.nativert == "equal", row


def export(folder, module, inputs, dynamic=None) -> pathlib.Path:
    path = folder / "program.pt2"
    exported = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic)
    torch.export.save(exported, path)
    return path


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_beside_the_program_are_taken(answers, tmp_path, name):
    import safetensors.torch

    path = export(tmp_path, nn.Linear(10, 3), (torch.randn(2, 10),), {"input": {0: Dim("batch")}})
    trained = nn.Linear(10, 3)
    if name.endswith("pth"):
        torch.save(trained.state_dict(), tmp_path / name)
    else:
        safetensors.torch.save_file(trained.state_dict(), tmp_path / name)
    x = torch.randn(4, 10)
    answer, outputs = answers.ask(path, {"input": x}, weights=tmp_path / name)
    assert answer["state"] == ["weight", "bias"]
    with torch.inference_mode():
        assert torch.equal(outputs["output"], trained(x))


def test_weights_that_do_not_fit_are_refused(answers, tmp_path):
    path = export(tmp_path, nn.Linear(10, 3), (torch.randn(2, 10),))
    torch.save(nn.Linear(10, 4).state_dict(), tmp_path / "other.pth")
    answer, _ = answers.ask(path, {"input": torch.randn(2, 10)}, weights=tmp_path / "other.pth")
    assert "size mismatch" in answer["error"]


class Two(nn.Module):
    def forward(self, first, second):
        return {"sum": first.sum(1) + second.sum(1), "pair": (first, second * 2)}


def test_the_signature_says_what_the_program_takes_and_gives(answers, tmp_path):
    rows, length = Dim("rows", min=1, max=64), Dim("length", min=4, max=32)
    sizes = {0: rows, 1: length}
    path = export(tmp_path, Two(), (torch.randn(2, 6), torch.randn(2, 6)),
                  {"first": sizes, "second": sizes})  # fmt: skip
    answer = answers.job(program=str(path))
    assert answer["batched"] and answer["rows"] == [1, 64]
    assert [spec["name"] for spec in answer["inputs"]] == ["first", "second"]
    assert answer["inputs"][0] == {
        "name": "first", "dtype": "Float", "dims": [-1], "sizes": [[4, 32]]}  # fmt: skip
    assert [spec["name"] for spec in answer["outputs"]] == ["sum", "pair_0", "pair_1"]


def test_sizes_that_break_a_constraint_are_refused_by_name(answers, tmp_path):
    length = Dim("length", min=4, max=32)
    path = export(tmp_path, Two(), (torch.randn(2, 6), torch.randn(2, 6)),
                  {"first": {1: length}, "second": {1: length}})  # fmt: skip
    for sizes, message in [
        ((2, 40, 2, 40), 'input "first", dimension 1: expected 4 to 32, got 40'),
        ((2, 6, 2, 7), 'input "second", dimension 1: expected 6 because input "first", dimension 1 is 6, got 7'),
        ((3, 6, 3, 6), 'input "first", dimension 0: expected 2, got 3'),
    ]:
        inputs = {"first": torch.randn(*sizes[:2]), "second": torch.randn(*sizes[2:])}
        answer, _ = answers.ask(path, inputs)
        assert message in answer.get("error", ""), answer


class Writer(nn.Module):
    """Writes to its input, which belongs to whoever calls."""

    def forward(self, x):
        x.add_(1)
        return x, x[:, :2]


class Numbered(nn.Module):
    def forward(self, x):
        return x, x.shape[0]


def decomposed(module, *inputs):
    return torch.export.export(module, inputs).run_decompositions()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda: decomposed(Counter(), torch.ones(2, 1)),
         "it changes its buffer 'calls' when it runs, which is not supported"),
        (lambda: decomposed(Writer(), torch.ones(2, 4)),
         "it changes the input 'x' when it runs, which is not supported"),
        (lambda: torch.export.export(nn.BatchNorm1d(3), (torch.ones(4, 3),)),
         'it changes the buffer "num_batches_tracked" in place'),
        (lambda: torch.export.export(Numbered(), (torch.ones(4, 3),),
                                     dynamic_shapes={"x": {0: Dim("rows")}}),
         "output 'output_1': expected a tensor, got a number"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(answers, tmp_path, program, message):
    path = tmp_path / "program.pt2"
    torch.export.save(program(), path)
    assert message in answers.job(program=str(path)).get("error", "")


class Halves(nn.Module):
    def forward(self, x, y):
        return x.view(2, -1) + y


def test_derived_sizes_are_checked(answers, tmp_path):
    half = Dim("half", min=2, max=50)
    path = export(tmp_path, Halves(), (torch.randn(8), torch.randn(4)),
                  {"x": {0: 2 * half}, "y": {0: half}})  # fmt: skip
    x, y = torch.randn(12), torch.randn(6)
    answer, outputs = answers.ask(path, {"x": x, "y": y})
    assert torch.equal(outputs["output"], x.view(2, -1) + y), answer
    assert not answer["batched"]
    answer, _ = answers.ask(path, {"x": torch.randn(13), "y": y})
    assert 'input "x", dimension 0: expected 12' in answer["error"]


def test_ids_that_are_looked_up_have_to_be_in_the_table(answers, tmp_path):
    path = export(tmp_path, Tied(), (torch.zeros(2, 4, dtype=torch.int64),),
                  {"ids": {0: Dim("batch")}})  # fmt: skip
    answer = answers.job(program=str(path))
    assert answer["inputs"][0]["values"] == [0, 19]
    assert sorted(answer["state"]) == ["embedding.weight", "head.weight"]


def test_what_the_program_asserts_is_an_error_that_names_the_node(answers, tmp_path):
    path = export(tmp_path, Counted(), (torch.randn(2), torch.tensor(2)))
    answer, outputs = answers.ask(path, {"x": torch.zeros(2), "count": torch.tensor(4)})
    assert outputs["output"].shape == (4, 3), answer
    answer, _ = answers.ask(path, {"x": torch.zeros(2), "count": torch.tensor(9)})
    assert "u0 <= 4" in answer["error"] and "_assert_scalar" in answer["error"]


def test_an_input_that_is_written_to_stays_the_callers(answers, tmp_path):
    row = answers.compare(ProgramCase("writer", Writer, normal(4), batch(), nativert=False))
    assert row.equal or "input" in row.error, row


def rewritten(path, target, change):
    """The archive with the text of its graph changed."""
    with zipfile.ZipFile(path) as read, zipfile.ZipFile(target, "w") as write:
        for entry in read.infolist():
            data = read.read(entry)
            if entry.filename.endswith("models/model.json"):
                changed = change(data.decode())
                assert changed != data.decode()
                data = changed.encode()
            write.writestr(entry.filename, data)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("torch.ops.aten.linear.default", "torch.ops.aten.from_file.default"),
         'operator "aten::from_file" is not supported'),
        (lambda t: t.replace("torch.ops.aten.linear.default", "torch.ops.mylib.linear.default"),
         "operator \"mylib::linear\" is not one of ATen's"),
        (lambda t: t.replace("torch.ops.aten.linear.default", "torch.ops.aten.linear.out"),
         "'out'"),
        (lambda t: t.replace('"name": "bias", "arg"', '"name": "other", "arg"'),
         "expected one of the operator's arguments, got \"other\""),
        (lambda t: t.replace('{"name": "p_weight"}}, "kind"', '{"name": "nowhere"}}, "kind"'),
         "expected a value that is made before, got 'nowhere'"),
        (lambda t: t.replace('"major": 8', '"major": 9'), "schema version 8"),
        (lambda t: t.replace('"parameter_name": "bias"', '"parameter_name": "weight"'),
         "'weight' twice"),
        (lambda t: "[" * 100_000 + t, "256 deep"),
        (lambda t: t[: len(t) // 2], "expected JSON"),
        (lambda t: t.replace('{"as_tensor": {"name": "linear"}}', "7"), "expected an object"),
    ],
)  # fmt: skip
def test_a_graph_that_is_wrong_is_refused(answers, tmp_path, change, message):
    path = export(tmp_path, nn.Linear(10, 3), (torch.randn(2, 10),))
    broken = rewritten(path, tmp_path / "broken.pt2", change)
    assert message in answers.job(program=str(broken)).get("error", "")


def places(value, found):
    """Every container of the JSON text with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def mutate(program: dict, chance: random.Random) -> None:
    """Removes, copies or replaces something."""
    graph = program["graph_module"]
    graph["graph"]["nodes"] = [
        {key: value for key, value in node.items() if key != "metadata"}
        for node in graph["graph"]["nodes"]
    ]
    found = places(program, [])
    for _ in range(chance.randint(1, 3)):
        container, key = chance.choice(found)
        try:
            match chance.randrange(3):
                case 0:
                    del container[key]
                case 1:
                    other, place = chance.choice(found)
                    container[key] = copy.deepcopy(other[place])
                case 2:
                    container[key] = chance.choice(
                        [None, True, -1, 0, 1, 3, 2**62, -(2**63), 2**64 - 1, 0.5, "", "x", [], {},
                         "torch.ops.aten.add.Tensor", {"as_int": 5}, {"as_tensor": {"name": "x"}}])  # fmt: skip
        except (KeyError, IndexError):
            continue  # an earlier change has taken it away


def test_changed_graphs_run_or_are_refused(answers, tmp_path):
    """Whatever is in the text, the process goes on."""
    path = export(tmp_path, Sizes(), (torch.randn(2, 5, 8),),
                  {"x": {0: Dim("batch"), 1: Dim("length", min=2, max=60)}})  # fmt: skip
    chance, refused = random.Random(7), 0
    for _ in range(250):
        def change(text):
            program = json.loads(text)
            mutate(program, chance)
            return json.dumps(program)

        broken = rewritten(path, tmp_path / "broken.pt2", change)
        answer, _ = answers.ask(broken, {"x": torch.randn(2, 5, 8)})
        refused += "error" in answer
    assert refused > 100
