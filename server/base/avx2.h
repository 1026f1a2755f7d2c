// Whether this processor has AVX2, for the few loops that are worth two versions. Callable from any
// thread.

#ifndef SCONCE_SERVER_BASE_AVX2_H_
#define SCONCE_SERVER_BASE_AVX2_H_

namespace sconce {

inline bool HasAvx2() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
#else
  return false;
#endif
}

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_AVX2_H_
