// What an exported program says of the Python module that it was made of, and does not need to run:
// names alone. Everything may be missing. Pure functions, callable from any thread; `module` is
// "graph_module" of the text. They throw BadProgram where it is there and wrong.
#ifndef SCONCE_SERVER_PROGRAM_PT2_MODULE_H_
#define SCONCE_SERVER_PROGRAM_PT2_MODULE_H_

#include <string>
#include <vector>

#include "server/program/pt2_json.h"

namespace sconce {

// How forward() is called; null where it is not said.
const Json* ForwardSignature(const Json& module);

// The fields of a named tuple.
std::vector<std::string> TupleFieldsOf(const Json& module, const std::string& type);

// "ResNet"; "Program" where nothing tells.
std::string ClassNameOf(const Json& module);

// "layer1.0.conv1".
std::vector<std::string> SubmoduleNamesOf(const Json& module);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_MODULE_H_
