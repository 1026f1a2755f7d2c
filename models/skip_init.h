// SkipInit: builds a network without memory for its weights and without filling them.
//
// torch::nn's constructors allocate and randomly initialise every parameter, which takes a second
// and half a gigabyte for a VGG-16, thrown away as soon as the real weights are assigned. While a
// SkipInit lives, tensors made on its thread have one element seen through strides of 0, constants
// (the ones and zeros of batch norm) go into that element and random values nowhere, so neither the
// time nor the memory depends on the size of the network, and the random generator is not advanced.
// Other threads are not affected.
//
// Keep it around the construction of modules only: what is computed under it has no meaning.
#ifndef SCONCE_MODELS_SKIP_INIT_H_
#define SCONCE_MODELS_SKIP_INIT_H_

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace sconce::models {

class SkipInit {
 public:
  SkipInit();
  SkipInit(const SkipInit&) = delete;
  SkipInit& operator=(const SkipInit&) = delete;

 private:
  c10::impl::IncludeDispatchKeyGuard include_;
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_SKIP_INIT_H_
