// The executor of programs, on graphs made by hand. What importers make of files is compared with
// Python's answers in tests/integration/test_exported_programs.py.
#include "models/program/graph_net.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <c10/core/Allocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "models/program/symbolic_ops.h"

namespace sconce::models {
namespace {

using ::testing::HasSubstr;

// A graph with one input "x" of floats, of any number of rows.
class Builder {
 public:
  explicit Builder(std::vector<int64_t> dims) {
    graph.class_name = "Made";
    graph.symbols.push_back({.name = "rows", .range = {.minimum = 1, .maximum = 64}});
    sizes = {SizeExpression::OfSymbol(0)};
    for (const int64_t size : dims) sizes.push_back(SizeExpression::Constant(size));
    x = graph.AddValue("x");
    graph.inputs.push_back({.name = "x", .value = x, .dtype = at::kFloat, .sizes = sizes});
  }

  ValueId Weight(const std::string& name, std::vector<int64_t> shape) {
    const ValueId value = graph.AddValue(name);
    graph.weights.push_back({.name = name,
                             .value = value,
                             .dtype = at::kFloat,
                             .shape = std::move(shape),
                             .is_parameter = true});
    return value;
  }

  ValueId Call(const std::string& op, const std::string& overload, std::vector<Argument> arguments,
               bool is_result = true) {
    GraphNode node{.name = op + std::to_string(graph.nodes.size()),
                   .op = op,
                   .overload = overload,
                   .arguments = {},
                   .outputs = {}};
    for (Argument& argument : arguments) node.arguments.push_back({"", std::move(argument)});
    ValueId value;
    if (is_result) {
      value = graph.AddValue(node.name);
      node.outputs.push_back({.values = {value}});
    }
    graph.nodes.push_back(std::move(node));
    return value;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(ValueId output) {
    graph.outputs.push_back({.name = "y", .value = output, .dtype = at::kFloat, .sizes = sizes});
    const auto architecture = ArchitectureOf("made", "", graph);
    if (!architecture.ok()) return architecture.status();
    auto net = (*architecture)->Create({});
    if (!net.ok()) return net.status();
    for (size_t i = 0; i < (*net)->State().size(); ++i) {
      (*net)->Assign(i, at::ones((*net)->State()[i].tensor.sizes()));
    }
    (*net)->Eval(at::kCPU);
    return net;
  }

  Graph graph;
  std::vector<SizeExpression> sizes;
  ValueId x;
};

// The most memory that tensors of this thread had at a time.
class PeakMemory final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*pointer*/, int64_t change, size_t /*allocated*/,
                         size_t /*reserved*/, c10::Device /*device*/) override {
    live_ += change;
    peak_ = std::max(peak_, live_);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t peak() const { return peak_; }

 private:
  int64_t live_ = 0;
  int64_t peak_ = 0;
};

std::string RefusalOf(Builder builder, ValueId output) {
  const auto net = builder.Build(output);
  return net.ok() ? "" : std::string(net.status().message());
}

std::string ErrorOf(const Net& net, const at::Tensor& input) {
  try {
    net.Forward({input});
    return "";
  } catch (const c10::Error& error) {
    return error.what();
  }
}

TEST(GraphNet, KeepsValuesNoLongerThanTheyAreUsed) {
  constexpr int64_t kFloats = 1 << 18;  // 1 MiB
  Builder builder({kFloats});
  ValueId value = builder.x;
  for (int i = 0; i < 10; ++i) value = builder.Call("aten::sin", "", {value});
  const auto net = builder.Build(value);
  ASSERT_TRUE(net.ok()) << net.status();
  const c10::InferenceMode inference_mode;
  const at::Tensor input = at::rand({1, kFloats});
  const auto memory = std::make_shared<PeakMemory>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
    (*net)->Forward({input});
  }
  // What goes into an operator and what comes out of it.
  EXPECT_GE(memory->peak(), 2 * kFloats * 4);
  EXPECT_LE(memory->peak(), 2 * kFloats * 4 + 4096);
}

TEST(GraphNet, AnswersManyThreadsAtOnce) {
  Builder builder({8});
  const ValueId weight = builder.Weight("weight", {8, 8});
  const ValueId y = builder.Call("aten::linear", "", {builder.x, weight});
  const auto net = builder.Build(builder.Call("aten::relu_", "", {y}));
  ASSERT_TRUE(net.ok()) << net.status();
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      const c10::InferenceMode inference_mode;
      for (int i = 0; i < 200; ++i) {
        const at::Tensor input = at::rand({static_cast<int64_t>(t) + 1, 8});
        const at::Tensor expected = input.sum(1, true).expand({-1, 8});
        wrong[t] += (*net)->Forward({input})[0].allclose(expected) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST(GraphNet, NeverWritesToWeights) {
  {
    Builder builder({4});
    const ValueId weight = builder.Weight("weight", {4});
    builder.Call("aten::add_", "Scalar", {weight, int64_t{1}});
    EXPECT_THAT(RefusalOf(std::move(builder), builder.x), HasSubstr("\"weight\" in place"));
  }
  // A view that the operator's schema does not tell of: in evaluation mode dropout gives back what
  // it is given.
  Builder builder({4});
  const ValueId weight = builder.Weight("weight", {4});
  const ValueId same = builder.Call("aten::dropout", "", {weight, 0.5, false});
  builder.Call("aten::add_", "Scalar", {same, int64_t{1}});
  const auto net = builder.Build(builder.Call("aten::add", "Tensor", {builder.x, same}));
  ASSERT_TRUE(net.ok()) << net.status();
  const c10::InferenceMode inference_mode;
  EXPECT_THAT(ErrorOf(**net, at::ones({2, 4})), HasSubstr("changes a weight"));
  EXPECT_TRUE(at::equal((*net)->State()[0].tensor, at::ones({4})));
}

TEST(GraphNet, GivesTheCallersInputBackAsItWas) {
  Builder builder({4});
  const auto net = builder.Build(builder.Call("aten::add_", "Scalar", {builder.x, int64_t{1}}));
  ASSERT_TRUE(net.ok()) << net.status();
  const c10::InferenceMode inference_mode;
  const at::Tensor input = at::ones({2, 4});
  const at::Tensor output = (*net)->Forward({input})[0];
  EXPECT_TRUE(at::equal(output, at::ones({2, 4}).add(1)));
  EXPECT_TRUE(at::equal(input, at::ones({2, 4})));
}

TEST(GraphNet, OutputsAreNotWeightsThemselves) {
  Builder builder({4});
  builder.sizes = {SizeExpression::Constant(4)};
  const ValueId weight = builder.Weight("weight", {4});
  const auto net = builder.Build(weight);
  ASSERT_TRUE(net.ok()) << net.status();
  const c10::InferenceMode inference_mode;
  const at::Tensor output = (*net)->Forward({at::ones({1, 4})})[0];
  EXPECT_FALSE(output.is_alias_of((*net)->State()[0].tensor));
}

TEST(GraphNet, MemoryLeftUnwrittenIsZeroed) {
  Builder builder({1024});
  const ValueId rows = builder.Call("aten::sym_size", "int", {builder.x, int64_t{0}});
  const ValueId empty =
      builder.Call("aten::empty", "memory_format", {std::vector<Argument>{rows, int64_t{1024}}});
  const auto net = builder.Build(empty);
  ASSERT_TRUE(net.ok()) << net.status();
  const c10::InferenceMode inference_mode;
  for (int i = 0; i < 10; ++i) {
    const at::Tensor input = at::ones({3, 1024});
    EXPECT_TRUE(at::equal((*net)->Forward({input})[0], input.sub(1)));
  }
}

TEST(GraphNet, RefusesByName) {
  const auto refused = [](const std::string& op, const std::string& overload,
                          std::vector<Argument> arguments) {
    Builder builder({4});
    for (Argument& argument : arguments) {
      if (std::get_if<bool>(&argument.variant) != nullptr) argument = builder.x;
    }
    const ValueId output = builder.Call(op, overload, std::move(arguments));
    return RefusalOf(std::move(builder), output);
  };
  const Argument x = true;  // stands for the input
  EXPECT_THAT(refused("aten::from_file", "", {std::string("/etc/passwd")}),
              HasSubstr("node \"aten::from_file0\" (\"aten::from_file\"): operator "
                        "\"aten::from_file\" is not supported"));
  EXPECT_THAT(refused("mine::op", "", {x}), HasSubstr("\"mine::op\" is not one of ATen's"));
  EXPECT_THAT(refused("aten::as_strided", "", {x}), HasSubstr("is not supported"));
  EXPECT_THAT(refused("aten::add", "Nonsense", {x, x}), HasSubstr("not known"));
  EXPECT_THAT(refused("aten::add", "Tensor", {x, std::string("1")}),
              HasSubstr("argument 'other': expected a value of the type Tensor"));
  EXPECT_THAT(refused("aten::add", "Tensor", {x}),
              HasSubstr("'other': expected a value, got none"));
  EXPECT_THAT(refused("aten::sin", "", {x, x}), HasSubstr("expected 1 arguments, got more"));
  EXPECT_THAT(refused("sym::add", "", {x, x}), HasSubstr("expected a number, got \"x\""));
  EXPECT_THAT(refused("sym::nothing", "", {x}), HasSubstr("is not supported"));
}

TEST(GraphNet, ValuesAreMadeOnceAndBeforeTheyAreUsed) {
  Builder later({4});
  const ValueId never = later.graph.AddValue("never");
  EXPECT_THAT(RefusalOf(later, later.Call("aten::sin", "", {never})),
              HasSubstr("expected a value that is made before, got \"never\""));
  Builder twice({4});
  const ValueId y = twice.Call("aten::sin", "", {twice.x});
  twice.graph.nodes[0].outputs[0].values[0] = twice.x;
  EXPECT_THAT(RefusalOf(twice, y),
              HasSubstr("expected each value to be made once, got \"x\" again"));
}

SizeExpression Arithmetic(SizeExpression::Kind kind, SizeExpression a, int64_t b) {
  return {.kind = kind, .operands = {std::move(a), SizeExpression::Constant(b)}};
}

TEST(GraphNet, SizesThatDependOnOneAnotherAreInTheSignatureOrRefusedAsTheInputs) {
  using Kind = SizeExpression::Kind;
  Builder builder({4});
  const auto rows = SizeExpression::OfSymbol(0);
  const auto length = SizeExpression::OfSymbol(1);
  builder.graph.symbols.push_back({.name = "length", .range = {.minimum = 2, .maximum = 64}});
  const auto odd = Arithmetic(Kind::kAdd, Arithmetic(Kind::kMultiply, length, 2), 1);
  const auto half = Arithmetic(Kind::kFloorDivide, length, 2);
  for (const auto& [name, size] :
       {std::pair("plain", length), std::pair("odd", odd), std::pair("half", half)}) {
    const ValueId value = builder.graph.AddValue(name);
    builder.graph.inputs.push_back(
        {.name = name, .value = value, .dtype = at::kFloat, .sizes = {rows, size}});
  }
  const auto net = builder.Build(builder.x);
  ASSERT_TRUE(net.ok()) << net.status();
  const std::vector<TensorSpec>& inputs = (*net)->signature().inputs;
  EXPECT_TRUE(inputs[0].rules.ties.empty());
  EXPECT_EQ(inputs[1].rules.ties, (std::vector<TiedSize>{{.tie = 0}}));
  EXPECT_EQ(inputs[2].rules.ties, (std::vector<TiedSize>{{.tie = 0, .multiple = 2, .offset = 1}}));
  EXPECT_EQ(inputs[2].rules.sizes, (std::vector<Range>{{5, 129}}));
  EXPECT_TRUE(inputs[3].rules.ties.empty());
  const c10::InferenceMode inference_mode;
  const auto error = [&](int64_t plain, int64_t odd_size, int64_t half_size) -> std::string {
    try {
      (*net)->Forward({at::ones({1, 4}), at::ones({1, plain}), at::ones({1, odd_size}),
                       at::ones({1, half_size})});
      return "";
    } catch (const InvalidInput& refusal) {
      return refusal.what_without_backtrace();
    }
  };
  EXPECT_EQ(error(9, 19, 4), "");
  EXPECT_EQ(error(9, 20, 4),
            "input \"odd\", dimension 1: expected 19 because input \"plain\", "
            "dimension 1 is 9, got 20");
  EXPECT_THAT(error(9, 19, 5), HasSubstr("input \"half\", dimension 1: expected 4 because"));
  EXPECT_THAT(error(65, 131, 32), HasSubstr("expected 2 to 64, got 65"));
}

int64_t Calculate(absl::string_view name, std::vector<c10::IValue> operands) {
  return FindSymbolicOp(name)->calculate(operands).toInt();
}

TEST(SymbolicOps, DivideAsPythonDoes) {
  EXPECT_EQ(Calculate("floordiv", {-7, 2}), -4);
  EXPECT_EQ(Calculate("mod", {-7, 2}), 1);
  EXPECT_EQ(Calculate("mod", {7, -2}), -1);
  EXPECT_EQ(Calculate("pow", {-1, 1001}), -1);
  EXPECT_EQ(Calculate("max", {3, 9}), 9);
}

TEST(SymbolicOps, NoticeOverflow) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  EXPECT_THROW(Calculate("add", {kMost, 1}), c10::Error);
  EXPECT_THROW(Calculate("mul", {kMost, 2}), c10::Error);
  EXPECT_THROW(Calculate("pow", {2, 64}), c10::Error);
  EXPECT_THROW(Calculate("floordiv", {1, 0}), c10::Error);
  EXPECT_THROW(Calculate("floordiv", {-kMost - 1, -1}), c10::Error);
  EXPECT_THROW(Calculate("lshift", {1, 64}), c10::Error);
  EXPECT_THROW(Calculate("int", {1e300}), c10::Error);
}

}  // namespace
}  // namespace sconce::models
