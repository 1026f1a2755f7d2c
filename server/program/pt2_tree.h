// The names of what a module takes and gives, which may be tuples and dictionaries within one
// another: an exported program's archive describes them as trees, in JSON of its own:
//
//   [1, tree]    tree = {"type": null | "builtins.tuple" | "builtins.dict" | ...,
//                        "context": null | JSON in a string, "children_spec": [tree...]}
//
// A pure function.

#ifndef SCONCE_SERVER_PROGRAM_PT2_TREE_H_
#define SCONCE_SERVER_PROGRAM_PT2_TREE_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace sconce {

// The fields of a named tuple, by the name of its type; empty where that is not known.
using NamedTupleFields = std::function<std::vector<std::string>(const std::string& type)>;

// A name for each leaf, in order: keys of dictionaries and fields of named tuples as they are, and
// places in lists as numbers, joined by "_"; a leaf that is not in a dictionary begins with
// `prefix`. So "output" for a single tensor, "output_1" for the second of a tuple, "logits" for one
// in a dictionary. Where the tree says nothing that fits `leaves`, or gives two the same name:
// `prefix` and numbers.
std::vector<std::string> LeafNames(const std::string& tree, size_t leaves,
                                   const std::string& prefix, const NamedTupleFields& fields);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_TREE_H_
