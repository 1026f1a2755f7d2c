// Sparse tensors and what is refused in them (case 36 of what a reader must refuse), and tensors
// made dense or dequantised. That the values are PyTorch's is shown by
// tests/integration/test_torch_formats.py.

#include "server/checkpoint/data/dense_read.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Call;
using pickle::Global;
using pickle::Int;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Tuple;

struct Part {
  std::vector<int64_t> shape;
  std::vector<int64_t> numbers;  // stored as int64
};

// A sparse tensor of int64 numbers, with its file.
struct SparseFile {
  std::string layout = "torch.sparse_coo";
  std::vector<Part> parts;  // in the order of the arguments
  std::vector<int64_t> shape;
  std::string index_class = "LongStorage";

  std::string Build() const {
    std::vector<std::pair<std::string, std::string>> storages;
    std::vector<std::string> arguments;
    for (const Part& part : parts) {
      TensorPickle tensor;
      tensor.key = std::to_string(storages.size());
      const bool is_last = storages.size() + 1 == parts.size();
      tensor.storage_class = Global("torch", is_last ? "LongStorage" : index_class);
      tensor.numel = static_cast<int64_t>(part.numbers.size());
      tensor.shape = part.shape;
      tensor.strides.assign(part.shape.size(), 1);
      for (size_t i = part.shape.size(); i-- > 1;) {
        tensor.strides[i - 1] = tensor.strides[i] * part.shape[i];
      }
      arguments.push_back(tensor.Build());
      storages.emplace_back(tensor.key, Bytes(part.numbers));
    }
    std::vector<std::string> sizes;
    for (const int64_t size : shape) sizes.push_back(Int(size));
    arguments.push_back(Call(Global("torch", "Size"), Tuple({Tuple(sizes)})));
    const std::string tensor =
        Call(Global("torch._utils", "_rebuild_sparse_tensor"),
             Tuple({Call(Global("torch.serialization", "_get_layout"), Tuple({Str(layout)})),
                    Tuple(arguments)}));
    return TorchZip(pickle::Stream(OrderedDict({{"w", tensor}})), storages).Build();
  }
};

// [[0, 5], [6, 0]]
SparseFile Coo() { return {.parts = {{{2, 2}, {0, 1, 1, 0}}, {{2}, {5, 6}}}, .shape = {2, 2}}; }
SparseFile Csr() {
  return {.layout = "torch.sparse_csr",
          .parts = {{{3}, {0, 1, 2}}, {{2}, {1, 0}}, {{2}, {5, 6}}},
          .shape = {2, 2}};
}

// The dense numbers, or the error.
absl::StatusOr<std::vector<int64_t>> Dense(const SparseFile& file, int64_t max_bytes = 1 << 20) {
  const Opened opened = OpenBytes(file.Build());
  if (!opened.ok()) return opened.checkpoint.status();
  const TensorDescriptor& tensor = opened->tensors().at(0);
  const absl::StatusOr<DenseForm> form = DenseFormOf(tensor, max_bytes);
  if (!form.ok()) return form.status();
  std::vector<int64_t> numbers(static_cast<size_t>(form->size_bytes) / 8);
  const absl::Status read =
      ReadDense(**opened.checkpoint, tensor, max_bytes,
                {reinterpret_cast<std::byte*>(numbers.data()), numbers.size() * 8});
  if (!read.ok()) return read;
  return numbers;
}

void ExpectDenseRefused(const SparseFile& file, const std::string& words,
                        int64_t max_bytes = 1 << 20) {
  const auto dense = Dense(file, max_bytes);
  ASSERT_FALSE(dense.ok());
  const std::string message(dense.status().message());
  EXPECT_NE(message.find("tensor 'w'"), std::string::npos) << message;
  EXPECT_NE(message.find(words), std::string::npos) << message;
}

TEST(DenseReadTest, SparseTensorsAreKeptAsTheirParts) {
  const Opened opened = OpenBytes(Csr().Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  const TensorDescriptor& tensor = opened->tensors().at(0);
  EXPECT_EQ(tensor.storage, kNoStorage);
  EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 2}));
  ASSERT_TRUE(tensor.sparse.has_value());
  EXPECT_EQ(tensor.sparse->layout, SparseParts::Layout::kCsr);
  EXPECT_EQ(Read<int64_t>(**opened.checkpoint, *tensor.sparse->compressed_indices),
            (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(Read<int64_t>(**opened.checkpoint, *tensor.sparse->values),
            (std::vector<int64_t>{5, 6}));
  std::vector<std::byte> bytes(32);
  EXPECT_FALSE(opened->ReadInto(tensor, absl::MakeSpan(bytes)).ok());
}

TEST(DenseReadTest, EachLayoutIsMadeDense) {
  const std::vector<int64_t> dense = {0, 5, 6, 0};
  EXPECT_EQ(*Dense(Coo()), dense);
  EXPECT_EQ(*Dense(Csr()), dense);
  SparseFile csc = Csr();
  csc.layout = "torch.sparse_csc";
  EXPECT_EQ(*Dense(csc), (std::vector<int64_t>{0, 6, 5, 0}));
  const SparseFile bsr = {.layout = "torch.sparse_bsr",
                          .parts = {{{3}, {0, 0, 1}}, {{1}, {1}}, {{1, 1, 2}, {5, 6}}},
                          .shape = {2, 4}};
  EXPECT_EQ(*Dense(bsr), (std::vector<int64_t>{0, 0, 0, 0, 0, 0, 5, 6}));
  SparseFile bsc = bsr;
  bsc.layout = "torch.sparse_bsc";
  bsc.parts[1].numbers = {0};
  EXPECT_EQ(*Dense(bsc), (std::vector<int64_t>{0, 0, 5, 6, 0, 0, 0, 0}));
}

TEST(DenseReadTest, RepeatedElementsAreAddedUp) {
  SparseFile file = Coo();
  file.parts[0].numbers = {0, 0, 1, 1};
  EXPECT_EQ(*Dense(file), (std::vector<int64_t>{0, 11, 0, 0}));
}

TEST(DenseReadTest, IndicesOutsideTheTensorAreRefused) {
  for (const int64_t index : {int64_t{2}, int64_t{-1}, INT64_MAX, INT64_MIN}) {
    SparseFile file = Coo();
    file.parts[0].numbers[3] = index;
    ExpectDenseRefused(file, "a sparse index from 0 to 1, got " + std::to_string(index));
    file = Csr();
    file.parts[1].numbers[1] = index;
    ExpectDenseRefused(file, "a sparse index from 0 to 1, got " + std::to_string(index));
  }
}

TEST(DenseReadTest, CompressedIndicesThatDoNotRiseAreRefused) {
  for (const std::vector<int64_t>& compressed :
       {std::vector<int64_t>{1, 1, 2}, {0, 1, 1}, {0, 1, 3}, {0, 3, 2}, {0, -1, 2}}) {
    SparseFile file = Csr();
    file.parts[0].numbers = compressed;
    ExpectDenseRefused(file, "compressed indices");
  }
  SparseFile file = Csr();
  file.parts[0].numbers = {0, 2, 2};
  ExpectDenseRefused(file, "indices that rise in each line, got 1 and then 0");
}

TEST(DenseReadTest, PartsThatDoNotFitAreRefusedWhenTheFileIsOpened) {
  const auto refused = [](SparseFile file, std::string_view words) {
    ExpectRefused(file.Build(), {"tensor 'w'", words});
  };
  SparseFile file = Coo();
  file.parts[1] = {{1}, {5}};
  refused(file, "values of shape [2]");
  file = Coo();
  file.parts[0] = {{3, 2}, {0, 1, 1, 0, 0, 0}};
  refused(file, "indices of shape");
  file = Coo();
  file.shape = {INT64_MAX / 2, INT64_MAX / 2};
  refused(file, "64 bits");
  file = Coo();
  file.shape = {-1, 2};
  refused(file, "sizes of 0 or more");
  file = Coo();
  file.layout = "torch.strided";
  refused(file, "a sparse layout of torch, got 'torch.strided'");
  file = Coo();
  file.index_class = "DoubleStorage";
  refused(file, "indices of int64, got float64");
  file = Csr();
  file.parts[0] = {{2}, {0, 2}};
  refused(file, "compressed indices of shape [3]");
  file = Csr();
  file.parts[1] = {{1}, {1}};
  refused(file, "values");
  file = Csr();
  file.shape = {2};
  refused(file, "values that fit");
  file = Csr();
  file.shape = {INT64_MAX, 0};
  refused(file, "2^63");
  const SparseFile blocks = {.layout = "torch.sparse_bsr",
                             .parts = {{{3}, {0, 0, 1}}, {{1}, {1}}, {{1, 1, 2}, {5, 6}}},
                             .shape = {2, 3}};
  refused(blocks, "blocks that divide");
  SparseFile no_blocks = blocks;
  no_blocks.parts[2] = {{1, 1, 0}, {}};
  refused(no_blocks, "blocks that divide");
}

TEST(DenseReadTest, TheSizeIsCheckedBeforeAnythingIsAllocated) {
  SparseFile file = Coo();
  file.shape = {int64_t{1} << 28, int64_t{1} << 28};
  ExpectDenseRefused(file, "at most 1048576 bytes of dense numbers");
  // The parts count too.
  file = Coo();
  file.shape = {2, 2};
  ExpectDenseRefused(file, "at most 31 bytes", 31);
  EXPECT_TRUE(Dense(file, 32).ok());
  file.parts = {{{1, 100}, std::vector<int64_t>(100, 0)}, {{100}, std::vector<int64_t>(100, 1)}};
  file.shape = {2};
  ExpectDenseRefused(file, "of indices", 799);
  EXPECT_EQ(*Dense(file, 800), (std::vector<int64_t>{100, 0}));
}

TEST(DenseReadTest, TypesWithoutSumsAreRefused) {
  TensorPickle values = Floats(1);
  values.key = "1";
  values.storage_class = Global("torch.storage", "UntypedStorage");
  values.dtype = Global("torch", "float8_e5m2");
  TensorPickle indices = Floats(1);
  indices.storage_class = Global("torch", "LongStorage");
  indices.shape = {1, 1};
  indices.strides = {1, 1};
  const std::string tensor = Call(
      Global("torch._utils", "_rebuild_sparse_tensor"),
      Tuple({Call(Global("torch.serialization", "_get_layout"), Tuple({Str("torch.sparse_coo")})),
             Tuple({indices.Build(), values.Build(), Tuple({Int(3)})})}));
  const Opened opened =
      OpenBytes(TorchZip(pickle::Stream(OrderedDict({{"w", tensor}})),
                         {{"0", Bytes<int64_t>({1})}, {"1", std::string("\1", 1)}})
                    .Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  std::vector<std::byte> bytes(3);
  const absl::Status read =
      ReadDense(**opened.checkpoint, opened->tensors()[0], 1 << 20, absl::MakeSpan(bytes));
  EXPECT_NE(read.message().find("elements can be added"), std::string::npos) << read;
}

TEST(DenseReadTest, PlainTensorsAreReadAsTheyAre) {
  const Opened opened = OpenBytes(FileOf(Floats(), FloatStorage()));
  std::vector<float> numbers(4);
  const auto bytes =
      absl::MakeSpan(reinterpret_cast<std::byte*>(numbers.data()), numbers.size() * 4);
  ASSERT_TRUE(ReadDense(**opened.checkpoint, opened->tensors()[0], 16, bytes).ok());
  EXPECT_EQ(numbers, (std::vector<float>{0, 1, 2, 3}));
  EXPECT_FALSE(ReadDense(**opened.checkpoint, opened->tensors()[0], 15, bytes).ok());
  EXPECT_FALSE(ReadDense(**opened.checkpoint, opened->tensors()[0], 16, bytes.first(12)).ok());
}

}  // namespace
}  // namespace sconce
