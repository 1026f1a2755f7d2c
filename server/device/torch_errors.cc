#include "server/device/torch_errors.h"

#include <c10/util/Exception.h>

#include <cstdint>
#include <exception>
#include <new>

#include "absl/strings/str_cat.h"
#include "models/net.h"

namespace sconce {
namespace {

// The first line of LibTorch's message: the rest is a stack trace of ours.
std::string FirstLine(const char* what) {
  const std::string text(what);
  return text.substr(0, text.find('\n'));
}

// What CUDA reports when page-locked memory runs out (cudaErrorMemoryAllocation); OutOfMemoryError
// is thrown for device memory alone.
constexpr int32_t kAcceleratorOutOfMemory = 2;

}  // namespace

absl::Status StatusOfException(const std::string& device) {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    return absl::ResourceExhaustedError(absl::StrCat(device, ": ", FirstLine(e.what())));
  } catch (const c10::AcceleratorError& e) {
    const std::string message = absl::StrCat(device, ": ", FirstLine(e.what()));
    return e.get_error_code() == kAcceleratorOutOfMemory ? absl::ResourceExhaustedError(message)
                                                         : absl::InternalError(message);
  } catch (const models::InvalidInput& e) {
    return absl::InvalidArgumentError(FirstLine(e.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(device, ": out of host memory"));
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat(device, ": ", FirstLine(e.what())));
  }
}

}  // namespace sconce
