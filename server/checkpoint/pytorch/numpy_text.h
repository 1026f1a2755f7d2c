// DescribeNumpy: numpy's pickled scalars and arrays as text, such as "0.125" or "float64 array of
// shape [3, 4]". Internal to metadata_text.cc.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_NUMPY_TEXT_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_NUMPY_TEXT_H_

#include <optional>
#include <string>

#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

// Fit to print; nullopt for what is not numpy's.
std::optional<std::string> DescribeNumpy(const PickleTree& tree, PickleId id);

// The shortest text that reads back as this number, as Python prints it but for the notation of
// exponents.
std::string DescribeFloat(double value);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_NUMPY_TEXT_H_
