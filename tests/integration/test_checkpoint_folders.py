"""The checkpoint reader against checkpoints in several files, as Hugging Face's libraries and
torch.distributed write them: every byte it reads must be what Python holds."""

import json
import os
import socket
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from test_checkpoint_reader import ALL_DTYPES, bytes_of, dump, random_of, refusal
from torch import nn


def assert_holds(listing, state_dict):
    """As assert_same, in any order."""
    assert sorted(listing["by_name"]) == sorted(state_dict)
    for name, expected in state_dict.items():
        got = listing["by_name"][name]
        assert "torch." + got["dtype"] == str(expected.dtype), name
        assert got["shape"] == list(expected.shape), name
        assert got["bytes"] == bytes_of(expected), name


def network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 7))


# Sharded ------------------------------------------------------------------------------------------


def write_shards(folder, state_dict, count, stem="model", suffix=".safetensors"):
    """What save_pretrained writes; returns the index's path."""
    folder.mkdir(exist_ok=True)
    names = list(state_dict)
    weight_map, total = {}, 0
    for number in range(count):
        file = f"{stem}-{number + 1:05d}-of-{count:05d}{suffix}"
        held = {name: state_dict[name] for name in names[number::count]}
        if suffix == ".safetensors":
            safetensors.torch.save_file(held, folder / file, metadata={"format": "pt"})
        else:
            torch.save(held, folder / file)
        weight_map.update(dict.fromkeys(held, file))
        total += sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    index = folder / f"{stem}{suffix}.index.json"
    content = {"metadata": {"total_size": total, "extra": {"x": [1]}}, "weight_map": weight_map}
    index.write_text(json.dumps(content, indent=2, sort_keys=True))
    return index


@pytest.mark.parametrize("count", [1, 3])
def test_sharded_safetensors(tmp_path, count):
    state = network().state_dict()
    index = write_shards(tmp_path / "m", state, count)
    listing = dump(index)
    assert_holds(listing, state)
    assert listing["format"] == "sharded safetensors"
    assert listing["metadata"]["format"] == "pt"
    assert int(listing["metadata"]["total_size"]) == sum(
        tensor.numel() * tensor.element_size() for tensor in state.values())


@pytest.mark.parametrize("flags", [(), ("--verify-crc",)])
def test_sharded_bin_with_shared_storages_and_views(tmp_path, flags):
    base = torch.randn(6, 4)
    state = {"a": base, "b": torch.randn(3), "c": base.t(), "d": torch.randn(2, 2), "e": base[2:]}
    index = write_shards(tmp_path / "m", state, 2, "pytorch_model", ".bin")
    listing = dump(index, *flags)
    assert_holds(listing, state)
    storages = {name: tensor["storage"] for name, tensor in listing["by_name"].items()}
    assert storages["a"] == storages["c"] == storages["e"]
    assert len(set(storages.values())) == 3


def test_sharded_every_dtype(tmp_path):
    state = {str(dtype): random_of(dtype, 3, 4) for dtype in ALL_DTYPES}
    index = write_shards(tmp_path / "m", state, 4, "pytorch_model", ".bin")
    assert_holds(dump(index), state)


def test_shards_that_are_not_what_the_index_says(tmp_path):
    state = network().state_dict()
    index = write_shards(tmp_path / "m", state, 2)
    shard = tmp_path / "m" / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    assert "model-00002-of-00002.safetensors" in refusal(index)
    shard.unlink()
    assert "cannot be found" in refusal(index)


# Folders ------------------------------------------------------------------------------------------


def test_folder_with_one_file_and_a_config(tmp_path):
    state = network().state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["ResNetForImageClassification"], "model_type": "resnet",
                    "id2label": {"0": "cat"}, "depths": [3, 4, 6, 3]}))
    listing = dump(tmp_path)
    assert_holds(listing, state)
    assert listing["metadata"] == {
        "file": "model.safetensors",
        "files not read": "pytorch_model.bin",
        "config.architectures": "ResNetForImageClassification",
        "config.model_type": "resnet",
    }


@pytest.mark.parametrize("suffix, stem", [(".safetensors", "model"), (".bin", "pytorch_model")])
def test_folder_with_an_index(tmp_path, suffix, stem):
    state = network().state_dict()
    write_shards(tmp_path / "m", state, 3, stem, suffix)
    assert_holds(dump(tmp_path / "m"), state)


def test_folder_of_the_hugging_face_cache(tmp_path):
    state = network().state_dict()
    write_shards(tmp_path / "made", state, 2)
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    assert_holds(dump(snapshot), state)
    assert_holds(dump(snapshot / "model.safetensors.index.json"), state)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    message = refusal(tmp_path)
    assert "notes.txt" in message and "model.safetensors" in message


# Distributed --------------------------------------------------------------------------------------


def save_distributed(path, state):
    dcp.save(state, checkpoint_id=path, no_dist=True)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flags", [(), ("--verify-crc",)])
def test_distributed_from_one_process(tmp_path, flags):
    state = {str(dtype): random_of(dtype, 3, 4) for dtype in ALL_DTYPES}
    state.update(scalar=torch.tensor(3), empty=torch.zeros(0, 3), view=torch.randn(4, 6).t()[1:3])
    listing = dump(save_distributed(tmp_path / "d", state), *flags)
    assert_holds(listing, state)
    assert listing["format"] == "distributed checkpoint"


@pytest.mark.filterwarnings("ignore")
def test_distributed_training_state_beside_the_model(tmp_path):
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
             "name": "run"}
    listing = dump(save_distributed(tmp_path / "d", state))
    assert_holds(listing, net.state_dict())
    assert listing["wrapper"] == "model"
    assert listing["metadata"]["epoch"] == "3"
    assert listing["metadata"]["name"] == "run"
    moment = listing["metadata"]["optimizer.state.0.exp_avg"]
    assert moment == "float32 tensor of shape [5, 3, 3, 3]"
    # As the recipe of torch's tutorial nests it.
    listing = dump(save_distributed(tmp_path / "nested", {"app": state}))
    assert_holds(listing, net.state_dict())
    assert listing["wrapper"] == "app.model"


SHARDED = """
import os, sys, torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
whole = torch.load(f"{folder}.pt")
places = {"rows": Shard(0), "columns": Shard(1), "middle": Shard(1), "uneven": Shard(0),
          "one_row": Shard(0), "copied": Replicate(), "half": Shard(0), "wide": Shard(1)}
state = {name: distribute_tensor(tensor, mesh, [places[name]]) for name, tensor in whole.items()}
dcp.save({"model": state}, checkpoint_id=folder)
dist.destroy_process_group()
"""


@pytest.mark.filterwarnings("ignore")
def test_distributed_from_two_processes(tmp_path):
    state = {
        "rows": torch.randn(8, 3), "columns": torch.randn(5, 6), "middle": torch.randn(3, 4, 5),
        "uneven": torch.randn(7, 2), "one_row": torch.randn(1, 4), "copied": torch.randn(3),
        "half": torch.randn(6, 5).half(), "wide": torch.randn(700, 600),
    }  # fmt: skip
    folder = tmp_path / "d"
    torch.save(state, f"{folder}.pt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = dict(os.environ, GLOO_SOCKET_IFNAME="lo")
    ranks = [
        subprocess.Popen([sys.executable, "-c", SHARDED, str(rank), str(port), folder], env=env,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        _, errors = rank.communicate(timeout=100)
        assert rank.returncode == 0, errors
    assert len(list(folder.glob("*.distcp"))) == 2
    listing = dump(folder)
    assert_holds(listing, state)
    assert listing["storages"] > len(state)
    loaded = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    dcp.load({"model": loaded}, checkpoint_id=folder, no_dist=True)
    assert_holds(listing, loaded)


@pytest.mark.filterwarnings("ignore")
def test_distributed_with_files_missing_or_cut(tmp_path):
    folder = save_distributed(tmp_path / "d", {"w": torch.randn(100)})
    (file,) = folder.glob("*.distcp")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert "tensor 'w'" in refusal(folder)
    file.unlink()
    assert file.name in refusal(folder)
