// What libFuzzer asks of a target with a mutator of its own. Each target defines Mutate.
#ifndef SCONCE_TESTS_FUZZ_CUSTOM_MUTATOR_H_
#define SCONCE_TESTS_FUZZ_CUSTOM_MUTATOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/fuzz/mutators.h"
#include "tests/fuzz/random.h"

namespace sconce {

void Mutate(std::string& input, Random& random);

}  // namespace sconce

extern "C" inline __attribute__((used)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size,
                                                                       size_t max_size,
                                                                       unsigned seed) {
  sconce::Random random(seed);
  std::string input(reinterpret_cast<const char*>(data), size);
  sconce::Mutate(input, random);
  // What has become too long is cut: a truncated file is a test too.
  if (input.size() > max_size) input.resize(max_size);
  std::memcpy(data, input.data(), input.size());
  return input.size();
}

#endif  // SCONCE_TESTS_FUZZ_CUSTOM_MUTATOR_H_
