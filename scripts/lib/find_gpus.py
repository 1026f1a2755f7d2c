"""Prints the GPUs that CUDA's driver sees, one a line, and ends with status 0; or prints why there
are none and ends with status 1. Asks the driver itself: nothing else need be installed."""

import ctypes
import sys


def find_gpus():
    """(names, None), or ([], the reason why there are none)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "no NVIDIA driver: libcuda.so.1 is not there"

    def failed(status):
        text = ctypes.c_char_p()
        if hasattr(driver, "cuGetErrorString"):
            driver.cuGetErrorString(status, ctypes.byref(text))
        said = (text.value or b"an error").decode()
        return [], f"the NVIDIA driver cannot be used: {said} ({status})"

    if status := driver.cuInit(0):
        return failed(status)
    count = ctypes.c_int()
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return failed(status)
    if not count.value:
        return [], "the NVIDIA driver sees no GPU"
    names = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if status := driver.cuDeviceGet(ctypes.byref(device), number):
            return failed(status)
        if status := driver.cuDeviceGetName(name, len(name), device):
            return failed(status)
        names.append(f"cuda:{number} {name.value.decode()}")
    return names, None


if __name__ == "__main__":
    gpus, reason = find_gpus()
    print("\n".join(gpus) if gpus else reason)
    sys.exit(not gpus)
