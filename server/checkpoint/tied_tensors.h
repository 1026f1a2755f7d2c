// Tied weights: which tensors of a checkpoint are the same view of the same bytes. Pure, callable
// from any thread.
#ifndef SCONCE_SERVER_CHECKPOINT_TIED_TENSORS_H_
#define SCONCE_SERVER_CHECKPOINT_TIED_TENSORS_H_

#include <cstddef>
#include <vector>

#include "server/checkpoint/checkpoint.h"

namespace sconce {

// For each tensor the index of the first that is the same view; its own if there is none before it.
// A tensor without elements is tied to none.
std::vector<size_t> FirstOfSameView(const std::vector<TensorDescriptor>& tensors);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_TIED_TENSORS_H_
