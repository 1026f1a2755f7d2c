// Writes the corpora that fuzzing starts from: fuzz_seeds FOLDER makes FOLDER/<target>/ with
// small sound files, and some that are wrong in one place only.

#include <elf.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/fuzz/bundle.h"
#include "tests/support/checkpoint_builders.h"
#include "tests/support/protobuf_builders.h"

namespace sconce {
namespace {

// Name and contents.
using Seeds = std::vector<std::pair<std::string, std::string>>;

std::string Floats(int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(static_cast<float>(i));
  return Bytes(values);
}

TensorPickle Matrix() {
  TensorPickle tensor;
  tensor.numel = 4;
  tensor.shape = {2, 2};
  tensor.strides = {2, 1};
  return tensor;
}

std::string CallOf(std::string_view module, std::string_view name,
                   const std::vector<std::string>& arguments) {
  return pickle::Call(pickle::Global(module, name), pickle::Tuple(arguments));
}

std::string StorageId(std::string_view storage_class, std::string_view key, int64_t numel) {
  return pickle::Tuple({pickle::Str("storage"), pickle::Global("torch", storage_class),
                        pickle::Str(key), pickle::Str("cpu"), pickle::Int(numel)}) +
         "Q";
}

// Objects as torch.save pickles them, with tensors in the storages "0" (four floats) and "1" (eight
// bytes).
Seeds Objects() {
  const std::string tensor = Matrix().Build();
  const std::string size = pickle::Tuple({pickle::Int(2), pickle::Int(2)});
  const std::string strides = pickle::Tuple({pickle::Int(2), pickle::Int(1)});
  const std::string hooks = pickle::OrderedDict({});
  TensorPickle transposed = Matrix();
  transposed.strides = {1, 2};
  transposed.metadata = pickle::Dict({{"neg", pickle::Bool(true)}});
  TensorPickle typed = Matrix();
  typed.storage_class = pickle::Global("torch.storage", "UntypedStorage");
  typed.numel = 16;
  typed.dtype = pickle::Global("torch", "uint32");
  TensorPickle doubles = Matrix();
  doubles.key = "1";
  doubles.storage_class = pickle::Global("torch", "DoubleStorage");
  doubles.numel = 1;
  doubles.shape = {1};
  doubles.strides = {1};
  TensorPickle longs = doubles;
  longs.storage_class = pickle::Global("torch", "LongStorage");
  const std::string half("G\x3f\xe0\0\0\0\0\0\0", 9);
  const std::string quantised =
      CallOf("torch._utils", "_rebuild_qtensor",
             {StorageId("QUInt8Storage", "1", 8), pickle::Int(0), size, strides,
              pickle::Tuple({pickle::Global("torch", "per_tensor_affine"), half, pickle::Int(3)}),
              pickle::Bool(false), hooks});
  const std::string sparse =
      CallOf("torch._utils", "_rebuild_sparse_tensor",
             {CallOf("torch.serialization", "_get_layout", {pickle::Str("torch.sparse_coo")}),
              pickle::Tuple({longs.Build(), doubles.Build(), pickle::Tuple({pickle::Int(9)})})});
  const std::string module =
      pickle::Global("torch.nn.modules.linear", "Linear") + ")\x81" +
      pickle::Dict({{"training", pickle::Bool(true)},
                    {"_parameters", pickle::OrderedDict({{"weight", tensor}, {"bias", "N"}})},
                    {"_buffers", pickle::OrderedDict({})},
                    {"_modules", pickle::OrderedDict({})},
                    {"in_features", pickle::Int(2)}}) +
      "b";
  const std::string dtype =
      CallOf("numpy", "dtype", {pickle::Str("f8"), pickle::Bool(false), pickle::Bool(true)});
  return {
      {"plain", pickle::OrderedDict(
                    {{"w", tensor}},
                    pickle::OrderedDict({{"", pickle::Dict({{"version", pickle::Int(2)}})}}))},
      {"tied", pickle::OrderedDict({{"a", tensor + pickle::Put(1)}, {"b", pickle::Get(1)}})},
      {"view", pickle::OrderedDict({{"w", transposed.Build()}})},
      {"typed", pickle::OrderedDict({{"w", typed.Build()}})},
      {"parameter", pickle::OrderedDict({{"w", CallOf("torch._utils", "_rebuild_parameter",
                                                      {tensor, pickle::Bool(true), hooks})}})},
      {"quantised", pickle::OrderedDict({{"w", tensor}, {"q", quantised}})},
      {"sparse", pickle::OrderedDict({{"w", tensor}, {"s", sparse}})},
      {"wrapped", pickle::Dict({{"state_dict", pickle::OrderedDict({{"w", tensor}})},
                                {"epoch", pickle::Int(7)},
                                {"loss", half},
                                {"note", pickle::Str("a\x1b[1m")}})},
      {"numpy", pickle::Dict({{"state_dict", pickle::OrderedDict({{"w", tensor}})},
                              {"best", CallOf("numpy._core.multiarray", "scalar",
                                              {dtype, "C\x08" + std::string(8, '\1')})}})},
      {"module", module},
  };
}

Seeds Pickles() {
  Seeds seeds;
  for (const auto& [name, object] : Objects()) {
    seeds.emplace_back(name, pickle::Stream(object));
    seeds.emplace_back(name + "_protocol_4", pickle::Stream(object, 4));
  }
  seeds.emplace_back("memoized", pickle::Stream("\x8c\x01"
                                                "a\x94\x8c\x01"
                                                "b\x94\x93\x94)\x81\x94}b",
                                                4));
  seeds.emplace_back("bomb", pickle::Stream("(lq\0(h\0h\0lq\1(h\1h\1lq\2."));
  seeds.emplace_back(
      "cycle", pickle::Stream("]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a"));
  return seeds;
}

Seeds Zips() {
  Seeds seeds;
  for (const auto& [name, object] : Objects()) {
    seeds.emplace_back(
        name,
        TorchZip(pickle::Stream(object), {{"0", Floats(4)}, {"1", std::string(8, '\2')}}).Build());
  }
  ZipBuilder old = TorchZip(pickle::Stream(Objects()[0].second), {{"0", Floats(4)}});
  old.zip64 = false;
  seeds.emplace_back("no_zip64", old.Build());
  return seeds;
}

Seeds Safetensors() {
  return {
      {"two",
       SafetensorsFile(
           R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],)"
           R"("data_offsets":[0,8]},"b":{"dtype":"I8","shape":[2,2],"data_offsets":[8,12]}})",
           Floats(3))},
      {"empty", SafetensorsFile("{}", "")},
      {"scalar",
       SafetensorsFile(R"({"s":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}} )", "ab")},
      {"zero", SafetensorsFile(R"({"z":{"dtype":"U64","shape":[0,3],"data_offsets":[0,0]}})", "")},
      {"packed", SafetensorsFile(R"({"p":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", "ab")},
      {"escaped",
       SafetensorsFile(R"({"\u00e9\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a")},
  };
}

// {"w": [2, 2] floats} in a view of the only storage.
Seeds Tars() {
  const std::string storage =
      pickle::Stream(pickle::Int(1)) +
      pickle::Stream(pickle::Tuple(
          {pickle::Int(5), pickle::Str("cpu"), pickle::Global("torch", "FloatStorage")})) +
      LittleEndian<int64_t>(6) + Floats(6) +
      pickle::Stream(pickle::List(
          {pickle::Tuple({pickle::Int(8), pickle::Int(5), pickle::Int(1), pickle::Int(4)})}));
  const std::string tensor =
      pickle::Stream(pickle::Int(1)) +
      pickle::Stream(
          pickle::Tuple({pickle::Int(6), pickle::Int(8), pickle::Global("torch", "FloatTensor")})) +
      LittleEndian<int32_t>(2) + std::string(4, '\0') + Bytes<int64_t>({2, 2, 2, 1, 0});
  const std::string object = pickle::Stream(pickle::OrderedDict({{"w", pickle::Str("6") + "Q"}}));
  std::vector<TarMember> members = {{"sys_info", pickle::Stream("}")},
                                    {"pickle", object},
                                    {"tensors", tensor},
                                    {"storages", storage}};
  Seeds seeds = {{"view", Tar(members)}};
  members.insert(members.begin(), {"././@PaxHeader", "28 mtime=1480000000.1234567\n", 'x'});
  seeds.emplace_back("extended", Tar(members));
  return seeds;
}

// Values in the model, one by one, and in another file.
Seeds OnnxModels() {
  const auto bundle = [](const std::string& graph) {
    Bundle files{.opens = 9, .files = {{9, protobuf::OnnxModel(graph)}, {10, Floats(4)}}};
    return EncodeBundle(files);
  };
  const std::string raw =
      protobuf::Bytes(5, protobuf::OnnxTensor("raw", 2, protobuf::Bytes(9, Floats(2))));
  const std::string typed =
      protobuf::Bytes(5, protobuf::OnnxTensor("typed", 2, protobuf::Bytes(4, Floats(2))));
  const std::string integers = protobuf::Bytes(
      5, protobuf::Number(1, 3) + protobuf::Number(2, 6) + protobuf::Bytes(8, "integers") +
             protobuf::Bytes(
                 5, protobuf::Varint(1) + protobuf::Varint(300) + protobuf::Varint(~uint64_t{0})));
  const std::string external = protobuf::Bytes(
      5, protobuf::OnnxTensor("external", 4, protobuf::OnnxExternal("model.onnx.data", "0", "16")));
  const std::string sparse = protobuf::Bytes(
      15, protobuf::Bytes(1, protobuf::OnnxTensor("sparse", 1, protobuf::Bytes(9, Floats(1)))) +
              protobuf::Number(3, 9));
  return {
      {"raw", bundle(raw)},
      {"typed", bundle(typed + integers)},
      {"external", bundle(external)},
      {"all", bundle(protobuf::Bytes(2, "graph") + raw + typed + integers + external + sparse)}};
}

// A library that needs two others, of one segment that is read whole and one with the list.
Seeds Libraries() {
  constexpr char kNames[] = "\0libtorch.so\0libtorch_cpu.so\0libm.so.6";
  const std::string names(kNames, sizeof(kNames));
  const auto library = [&](const std::vector<std::pair<int64_t, uint64_t>>& list) {
    constexpr size_t kSegments = 2;
    const size_t list_at = sizeof(Elf64_Ehdr) + kSegments * sizeof(Elf64_Phdr);
    const size_t names_at = list_at + list.size() * sizeof(Elf64_Dyn);
    Elf64_Ehdr header = {};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = kSegments;
    Elf64_Phdr whole = {}, dynamic = {};
    whole.p_type = PT_LOAD;
    whole.p_vaddr = 0x1000;
    whole.p_filesz = names_at + names.size();
    dynamic.p_type = PT_DYNAMIC;
    dynamic.p_offset = list_at;
    std::string bytes;
    const auto append = [&bytes](const auto& part) {
      bytes.append(reinterpret_cast<const char*>(&part), sizeof(part));
    };
    append(header);
    append(whole);
    append(dynamic);
    for (const auto& [tag, value] : list) {
      Elf64_Dyn entry = {};
      entry.d_tag = tag;
      entry.d_un.d_val = tag == DT_STRTAB ? whole.p_vaddr + names_at : value;
      append(entry);
    }
    return bytes + names;
  };
  const std::pair<int64_t, uint64_t> torch = {DT_NEEDED, 1}, cpu = {DT_NEEDED, 13},
                                     math = {DT_NEEDED, 29}, texts = {DT_STRTAB, 0},
                                     end = {DT_NULL, 0};
  return {{"both", library({math, torch, cpu, texts, end})},
          {"other", library({texts, math, end})},
          {"one", library({torch, math, texts, end})},
          {"endless", library({torch, cpu, texts})}};
}

// How many leaves, and the tree.
Seeds Trees() {
  const std::string leaf = R"({"type":null,"context":null,"children_spec":[]})";
  const auto tree = [](int leaves, const std::string& of) {
    return std::string(1, static_cast<char>(leaves)) + "[1," + of + "]";
  };
  const std::string pair =
      R"({"type":"builtins.tuple","context":"null","children_spec":[)" + leaf + "," + leaf + "]}";
  return {
      {"leaf", tree(1, leaf)},
      {"tuple", tree(2, pair)},
      {"dictionary", tree(3, R"({"type":"builtins.dict","context":"[\"a\", 1]","children_spec":[)" +
                                 leaf + "," + pair + "]}")},
      {"named",
       tree(2, R"({"type":"collections.namedtuple","context":"\"pair\"","children_spec":[)" + leaf +
                   "," + leaf + "]}")},
      {"values",
       std::string(1, '\0') + R"({"as_float":"Infinity","as_int":-1,"as_bool":true,"as_none":[]})"},
  };
}

// The target asks for the line of "m.pth".
Seeds Manifests() {
  const std::string digest(64, 'a'), other = "0123456789abcdefABCDEF" + std::string(42, '0');
  return {{"one", digest + "  m.pth\n"},
          {"folder", digest + "  x/y/m.pth"},
          {"several", other + " *other.pth\r\n\n" + digest + " *m.pth\r\n"},
          {"twice", digest + "  m.pth\n" + other + "  x/m.pth\n"}};
}

void Write(const std::filesystem::path& folder, const Seeds& seeds) {
  std::filesystem::create_directories(folder);
  for (const auto& [name, bytes] : seeds) {
    std::ofstream file(folder / name, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) {
      std::cerr << "cannot write " << (folder / name) << "\n";
      std::exit(1);
    }
  }
}

}  // namespace
}  // namespace sconce

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  sconce::Write(folder / "pickle", sconce::Pickles());
  sconce::Write(folder / "zip", sconce::Zips());
  sconce::Write(folder / "tar", sconce::Tars());
  sconce::Write(folder / "onnx", sconce::OnnxModels());
  sconce::Write(folder / "safetensors", sconce::Safetensors());
  sconce::Write(folder / "manifest", sconce::Manifests());
  sconce::Write(folder / "elf", sconce::Libraries());
  sconce::Write(folder / "tree", sconce::Trees());
  return 0;
}
