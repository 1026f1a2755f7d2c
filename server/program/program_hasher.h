// ProgramHasher: names a program by what it is given of it, part by part.
//
// Made and used by one thread.
#ifndef SCONCE_SERVER_PROGRAM_PROGRAM_HASHER_H_
#define SCONCE_SERVER_PROGRAM_PROGRAM_HASHER_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "server/base/content_hash.h"

namespace sconce {

class ProgramHasher {
 public:
  template <typename T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void Add(T value) {
    hasher_.Update({reinterpret_cast<const std::byte*>(&value), sizeof(value)});
  }

  // Says how long it is first, so that no other parts make the same bytes.
  void Add(std::string_view text);

  template <typename T>
  void AddAll(const std::vector<T>& numbers) {
    Add(numbers.size());
    for (const T& number : numbers) Add(number);
  }

  // Type, shape and values. A tensor that is no plain dense one on the CPU throws c10::Error.
  void Add(const at::Tensor& tensor);

  // 32 hexadecimal digits, of all that was added.
  std::string Id() const { return hasher_.Finish().Hex(); }

 private:
  ContentHasher hasher_;
  std::map<const void*, size_t> memories_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PROGRAM_HASHER_H_
