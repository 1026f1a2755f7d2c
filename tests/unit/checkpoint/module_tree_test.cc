// Whole models: the state_dict that is found in them, and trees that must be refused (cases 25 to
// 27 of what a reader must refuse).

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Bool;
using pickle::Call;
using pickle::Dict;
using pickle::Get;
using pickle::Global;
using pickle::Int;
using pickle::List;
using pickle::None;
using pickle::OrderedDict;
using pickle::Put;
using pickle::Str;
using pickle::Tuple;

using Entries = std::vector<std::pair<std::string, std::string>>;

// An object of the class, as NEWOBJ and BUILD make it.
std::string Object(const std::string& name, const std::string& state) {
  return Global("nets", name) + ")\x81" + state + "b";
}

struct ModulePickle {
  Entries parameters = {}, buffers = {}, modules = {}, attributes = {};
  std::vector<std::string> not_persistent = {};

  std::string State() const {
    std::vector<std::string> names;
    for (const std::string& name : not_persistent) names.push_back(Str(name));
    Entries state = {
        {"training", Bool(true)},
        {"_parameters", OrderedDict(parameters)},
        {"_buffers", OrderedDict(buffers)},
        {"_non_persistent_buffers_set", Call(Global("__builtin__", "set"), Tuple({List(names)}))},
        {"_modules", OrderedDict(modules)}};
    state.insert(state.end(), attributes.begin(), attributes.end());
    return Dict(state);
  }
  std::string Build(const std::string& name = "Net") const { return Object(name, State()); }
};

ModulePickle Leaf() { return {.parameters = {{"w", Floats().Build()}, {"bias", None()}}}; }

std::vector<std::string> Names(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  return names;
}

TEST(ModuleTreeTest, TheStateDictIsThatOfPyTorch) {
  ModulePickle model;
  model.modules = {{"a", Leaf().Build("Conv")}, {"none", None()}, {"b", Leaf().Build()}};
  model.buffers = {{"mean", Floats().Build()}, {"cache", Floats().Build()}, {"off", None()}};
  model.not_persistent = {"cache"};
  model.parameters = {{"scale", Floats().Build()}};
  model.attributes = {{"kernel_size", Tuple({Int(3), Int(1)})},
                      {"_hidden", Int(1)},
                      {"mode", Str("zeros\n")},
                      {"hooks", OrderedDict({})}};
  const Opened opened = OpenBytes(FileWith(model.Build()));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"scale", "mean", "a.w", "b.w"}));
  EXPECT_TRUE(opened->tensors()[0].is_parameter);
  EXPECT_FALSE(opened->tensors()[1].is_parameter);
  ASSERT_EQ(opened->modules().size(), 3u);
  EXPECT_EQ(opened->modules()[1].path, "a");
  EXPECT_EQ(opened->modules()[1].class_name, "nets.Conv");
  const std::vector<MetadataEntry>& attributes = opened->modules()[0].attributes;
  ASSERT_EQ(attributes.size(), 2u);
  EXPECT_EQ(attributes[0].name + "=" + attributes[0].value, "kernel_size=(3, 1)");
  EXPECT_EQ(attributes[1].value, "zeros\\n");
}

TEST(ModuleTreeTest, SharedModulesAndTensorsHaveEachOfTheirNames) {
  ModulePickle model;
  model.modules = {{"a", Leaf().Build() + Put(7)}, {"b", Get(7)}};
  const Opened opened = OpenBytes(FileWith(model.Build()));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"a.w", "b.w"}));
  EXPECT_EQ(opened->storages().size(), 1u);
}

TEST(ModuleTreeTest, AModelInADictIsTaken) {
  const Opened opened =
      OpenBytes(FileWith(Dict({{"epoch", Int(3)}, {"ema", None()}, {"model", Leaf().Build()}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->wrapper(), "model");
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"w"}));
  EXPECT_EQ(opened->metadata()[0].name, "epoch");
}

TEST(ModuleTreeTest, OtherShapesOfPickledModules) {
  // (attributes, slots) as the state, parameters as calls of their class, a set as such.
  ModulePickle old;
  old.parameters = {
      {"w", Call(Global("torch.nn.parameter", "Parameter"), Tuple({Floats().Build(), Bool(true)})) +
                Tuple({Bool(true), Bool(false), OrderedDict({})}) + "b"}};
  const Opened opened = OpenBytes(FileWith(Object("Net", Tuple({old.State(), None()}))));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"w"}));
  EXPECT_TRUE(opened->tensors()[0].is_parameter);

  const Opened traced =
      OpenBytes(FileWith(Call(Global("torch.fx.graph_module", "reduce_graph_module"),
                              Tuple({Leaf().State(), Str("import torch")}))));
  ASSERT_TRUE(traced.ok()) << traced.checkpoint.status();
  EXPECT_EQ(traced->modules()[0].class_name, "torch.fx.graph_module.GraphModule");
}

TEST(ModuleTreeTest, AModuleThatCannotBeLookedIntoIsNamed) {
  ModulePickle model = Leaf();
  model.modules = {{"packed", Call(Global("torch.classes", "Packed"), ")")}};
  const Opened opened = OpenBytes(FileWith(model.Build()));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  ASSERT_EQ(opened->non_tensors().size(), 1u);
  EXPECT_EQ(opened->non_tensors()[0].name, "packed");
  EXPECT_EQ(opened->non_tensors()[0].type_name, "torch.classes.Packed");
}

TEST(ModuleTreeTest, CyclesAreRefused) {
  const std::string cycle =
      Global("nets", "Net") + ")\x81" + Put(1) +
      Dict({{"_parameters", OrderedDict({})}, {"_modules", OrderedDict({{"again", Get(1)}})}}) +
      "b";
  ExpectRefused(FileWith(cycle), {"module 'again'", "cycle"});
}

TEST(ModuleTreeTest, DeepTreesAreRefusedAndDoNotRecurse) {
  std::string open, close;
  for (int i = 0; i < 100'000; ++i) {
    open +=
        Global("n", "N") + ")\x81}(" + Str("_parameters") + "}" + Str("_modules") + "}" + Str("m");
    close += "sub";
  }
  ExpectRefused(FileWith(open + None() + close), {"module 'm.m.m", "512 deep"});
}

// 40 levels of two names for the next: 2^40 modules in a file of a few kilobytes.
TEST(ModuleTreeTest, ExpandingTreesAreRefused) {
  std::string module = Leaf().Build() + Put(0);
  std::string file = module + "0";
  for (uint8_t i = 1; i < 40; ++i) {
    ModulePickle next;
    next.modules = {{"left", Get(static_cast<uint8_t>(i - 1))},
                    {"right", Get(static_cast<uint8_t>(i - 1))}};
    file += next.Build() + Put(i) + "0";
  }
  ExpectRefused(FileWith(file + Get(39)), {"expected", "at most"});
}

TEST(ModuleTreeTest, NamesAreChecked) {
  ModulePickle model;
  model.parameters = {{"a.w", Floats().Build()}};
  model.modules = {{"a", Leaf().Build()}};
  ExpectRefused(FileWith(model.Build()), {"tensor 'a.w'", "each name once"});
  const std::string state =
      Dict({{"_parameters", "}" + Int(1) + Floats().Build() + "s"}, {"_modules", Dict({})}});
  ExpectRefused(FileWith(Object("Net", state)), {"module ''", "a string as the name", "an int"});
  TensorPickle outside = Floats();
  outside.offset = 1;
  ModulePickle bad;
  bad.modules = {{"layer", ModulePickle{.parameters = {{"w", outside.Build()}}}.Build()}};
  ExpectRefused(FileWith(bad.Build()), {"tensor 'layer.w'", "inside the storage"});
}

// ---- TorchScript.

ZipBuilder Script(const std::string& object, const std::string& constants = pickle::Stream(")")) {
  ZipBuilder zip = TorchZip(pickle::Stream(object), {{"0", FloatStorage()}});
  ZipRecord record;
  record.name = "archive/constants.pkl";
  record.data = constants;
  zip.records.push_back(record);
  record.name = "archive/constants/0";
  record.data = FloatStorage();
  zip.records.push_back(record);
  record.name = "archive/code/__torch__.py";
  record.data = "compressed, and never looked at";
  record.method = record.local_method.emplace(8);
  record.size = 1'000;
  zip.records.push_back(record);
  return zip;
}

std::string ScriptObject(const std::string& module, const std::string& name, const Entries& state) {
  return Global(module, name) + ")\x81" + Dict(state) + "b";
}

TEST(TorchScriptTest, TensorsAreTakenFromTheObjects) {
  const std::string linear =
      ScriptObject("__torch__.torch.nn.modules.linear.___torch_mangle_3", "Linear",
                   {{"weight", Floats().Build()}, {"training", Bool(true)}, {"bias", None()}});
  const Opened opened =
      OpenBytes(Script(ScriptObject("__torch__", "Net",
                                    {{"training", Bool(true)},
                                     {"layer", linear},
                                     {"mean", Floats().Build()},
                                     {"sizes", Call(Global("torch.jit._pickle", "build_intlist"),
                                                    Tuple({List({Int(1), Int(2)})}))}}))
                    .Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_STREQ(opened->format(), "TorchScript");
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"mean", "layer.weight"}));
  ASSERT_EQ(opened->modules().size(), 2u);
  EXPECT_EQ(opened->modules()[0].class_name, "Net");
  EXPECT_EQ(opened->modules()[0].attributes.at(0).value, "[1, 2]");
  EXPECT_EQ(opened->modules()[1].class_name, "torch.nn.modules.linear.Linear");
}

TEST(TorchScriptTest, AFrozenModulesTensorsAreItsConstants) {
  const std::string empty = ScriptObject("__torch__", "Net", {{"training", Bool(false)}});
  const Opened opened =
      OpenBytes(Script(empty, pickle::Stream(Tuple({Int(1), Floats().Build()}))).Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"CONSTANTS.c1"}));
  EXPECT_EQ(opened->storages().at(0).member, "archive/constants/0");
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
            (std::vector<float>{0, 1, 2, 3}));
  ExpectRefused(Script(empty, pickle::Stream(Int(1))).Build(),
                {"constants.pkl", "tuple of constants"});
}

// PyTorch reads the program's own tensors, and it looks at no size.
TEST(TorchScriptTest, TensorsThatAreNotListedLieInTheirStoragesToo) {
  const std::string weight = ScriptObject("__torch__", "Net", {{"w", Floats().Build()}});
  const auto with_constant = [&](const TensorPickle& constant) {
    return Script(weight, pickle::Stream(Tuple({constant.Build()}))).Build();
  };
  EXPECT_TRUE(OpenBytes(with_constant(Floats())).ok());
  TensorPickle lie = Floats();
  lie.strides = {65};
  ExpectRefused(with_constant(lie), {"constants.pkl", "a tensor", "inside the storage"});
  lie = Floats();
  lie.numel = 400;
  ExpectRefused(with_constant(lie), {"constants.pkl", "a tensor", "storage"});
  lie = Floats();
  lie.key = "7";
  ExpectRefused(with_constant(lie), {"constants.pkl", "'archive/constants/7'", "none"});
  // In a list that a module keeps, and where it is thrown away at once.
  lie = Floats();
  lie.offset = 4;
  const Entries kept = {{"w", Floats().Build()}, {"list", List({lie.Build()})}};
  ExpectRefused(Script(ScriptObject("__torch__", "Net", kept)).Build(),
                {"data.pkl", "a tensor", "inside the storage"});
  ExpectRefused(Script(lie.Build() + "0" + weight).Build(),
                {"data.pkl", "a tensor", "inside the storage"});
}

// PyTorch numbers the functions that a pickle names, and calls the one whose number comes.
TEST(TorchScriptTest, NoNumberPassesForAFunction) {
  const std::string number =
      Call(Global("torch.jit._pickle", "restore_type_tag"), Tuple({Int(0), Str("int")}));
  TensorPickle lie = Floats();
  lie.offset = 4;
  for (const std::string& call : {Call(number, lie.Arguments()), number + lie.Arguments() + "b"}) {
    ExpectRefused(
        Script(ScriptObject("__torch__", "Net", {{"w", Floats().Build()}, {"x", call}})).Build(),
        {"data.pkl", "by its name", "torch.jit._pickle.restore_type_tag"});
  }
}

TEST(TorchScriptTest, WhatIsNoModuleIsRefused) {
  ExpectRefused(Script(Int(1)).Build(), {"data.pkl", "a TorchScript module", "int"});
  ZipBuilder zip = Script(ScriptObject("__torch__", "Net", {{"w", Floats().Build()}}));
  for (ZipRecord& record : zip.records) {
    if (record.name == "archive/constants/0") record.method = record.local_method.emplace(8);
  }
  ExpectRefused(zip.Build(), {"archive/constants/0", "compressed"});
}

}  // namespace
}  // namespace sconce
