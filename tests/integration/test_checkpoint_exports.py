"""The checkpoint reader against exported programs (.pt2) and ONNX models: the weights in them must
be what Python holds."""

import struct
import warnings

import pytest
import torch
from test_checkpoint_folders import assert_holds, network
from test_checkpoint_reader import bytes_of, dump, random_of, refusal
from torch import nn

# Exported programs --------------------------------------------------------------------------------


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.mixed = nn.Parameter(torch.randn(3, 4).half().t())
        self.register_buffer("kept", torch.arange(4))
        self.register_buffer("passing", torch.ones(4), persistent=False)

    def forward(self, x):
        y = self.norm(self.second(self.first(x))) + self.kept + self.passing
        return y @ self.mixed.float()


@pytest.mark.parametrize("flags", [(), ("--verify-crc",)])
def test_exported_program(tmp_path, flags):
    net = Program().eval()
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), path)
    listing = dump(path, *flags)
    assert_holds(listing, net.state_dict())
    assert listing["format"] == "exported program"
    by_name = listing["by_name"]
    assert by_name["first.weight"]["storage"] == by_name["second.weight"]["storage"]
    assert by_name["norm.weight"]["parameter"] and not by_name["kept"]["parameter"]
    assert listing["metadata"]["constants.passing"] == "tensor of shape [4]"


def test_exported_program_cut(tmp_path):
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"storage_offset": {"as_int": 0}',
                                     b'"storage_offset": {"as_int": 9}'))
    assert "expected elements inside" in refusal(path)
    path.write_bytes(content.replace(b'"path_name": "weight_0"', b'"path_name": "weight_9"'))
    assert "weight_9" in refusal(path)


# ONNX ---------------------------------------------------------------------------------------------


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def proto(name, shape, data_type, *fields):
    return b"".join([*(number(1, size) for size in shape), number(2, data_type), text(8, name),
                     *fields])


def model(*initializers):
    graph = text(1, text(4, "Add")) + text(2, "main") + b"".join(
        text(5, tensor) for tensor in initializers)
    return number(1, 8) + text(2, "a test") + text(3, "1.0") + text(7, graph)


def external(location, **numbers):
    entries = {"location": location, **{key: str(value) for key, value in numbers.items()}}
    return b"".join(text(13, text(1, key) + text(2, value)) for key, value in entries.items()
                    ) + number(14, 1)


ONNX_TYPES = {
    torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.uint16: 4, torch.int16: 5,
    torch.int32: 6, torch.int64: 7, torch.bool: 9, torch.float16: 10, torch.float64: 11,
    torch.uint32: 12, torch.uint64: 13, torch.complex64: 14, torch.complex128: 15,
    torch.bfloat16: 16, torch.float8_e4m3fn: 17, torch.float8_e4m3fnuz: 18,
    torch.float8_e5m2: 19, torch.float8_e5m2fnuz: 20, torch.float8_e8m0fnu: 24,
}  # fmt: skip


def test_onnx_that_torch_wrote(tmp_path, monkeypatch):
    # It looks for functions of another package in what torch has written, which has none.
    monkeypatch.setattr(
        "torch.onnx._internal.torchscript_exporter.onnx_proto_utils._add_onnxscript_fn",
        lambda model, opsets: model)
    net = network()
    net(torch.randn(3, 3, 4, 4))
    for parameter in net.parameters():
        nn.init.normal_(parameter)  # equal initializers would be written once
    net.eval()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.zeros(1, 3, 4, 4), path, dynamo=False,
                          do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE)
    listing = dump(path)
    state = net.state_dict()
    state.pop("1.num_batches_tracked")
    assert {name: listing["by_name"][name]["bytes"] for name in state} == {
        name: bytes_of(tensor) for name, tensor in state.items()}
    assert listing["format"] == "ONNX"


def test_onnx_every_type_as_raw_data(tmp_path):
    state = {str(dtype): random_of(dtype, 3, 4) for dtype in ONNX_TYPES}
    tensors = [
        proto(name, tensor.shape, ONNX_TYPES[tensor.dtype], text(9, bytes_of(tensor)))
        for name, tensor in state.items()
    ]
    path = tmp_path / "model"
    path.write_bytes(model(*tensors))
    assert_holds(dump(path), state)


def typed(tensor, packed):
    """The values one by one, in the field that the format has for the type."""
    kind = ONNX_TYPES[tensor.dtype]
    raw = bytes_of(tensor)
    if kind in (1, 14):
        field, values, encode = 4, struct.unpack(f"<{len(raw) // 4}f", raw), "<f"
    elif kind in (11, 15):
        field, values, encode = 10, struct.unpack(f"<{len(raw) // 8}d", raw), "<d"
    else:
        size = tensor.element_size()
        field = 7 if kind == 7 else 11 if kind in (12, 13) else 5
        signed = tensor.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
        values = [int.from_bytes(raw[i : i + size], "little", signed=signed)
                  for i in range(0, len(raw), size)]  # fmt: skip
        encode = None
    parts = [varint(value) if encode is None else struct.pack(encode, value) for value in values]
    if packed:
        return text(field, b"".join(parts))
    wire = 0 if encode is None else 5 if encode == "<f" else 1
    return b"".join(varint(field << 3 | wire) + part for part in parts)


@pytest.mark.parametrize("packed", [True, False])
def test_onnx_every_type_as_single_values(tmp_path, packed):
    torch.manual_seed(5)
    state = {}
    for dtype in ONNX_TYPES:
        state[str(dtype)] = (torch.randn(2, 3).to(dtype) if dtype.is_complex or dtype in
                             (torch.float32, torch.float64) else random_of(dtype, 2, 3))
    state["empty"] = torch.zeros(0, 3)
    tensors = [
        proto(name, tensor.shape, ONNX_TYPES[tensor.dtype], typed(tensor, packed))
        for name, tensor in state.items()
    ]
    path = tmp_path / "model"
    path.write_bytes(model(*tensors))
    assert_holds(dump(path), state)


def test_onnx_external_data(tmp_path):
    state = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).double()}
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.data").write_bytes(bytes(64) + bytes_of(state["a"]) + bytes_of(state["b"]))
    (folder / "sub" / "c.bin").write_bytes(bytes_of(state["c"]))
    path = folder / "model.onnx"
    path.write_bytes(model(
        proto("a", (3, 4), 1, external("model.data", offset=64, length=48)),
        proto("b", (5,), 7, external("model.data", offset=112)),
        proto("c", (2,), 11, external("sub/c.bin"))))  # fmt: skip
    assert_holds(dump(path), state)


def test_onnx_types_that_pytorch_has_not_are_named(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(proto("w", (1,), 1, text(9, bytes(4))),
                           proto("q", (2,), 22, text(9, bytes(1)))))
    listing = dump(path)
    assert list(listing["by_name"]) == ["w"]
    assert "INT4" in listing["non_tensors"]["q"]
