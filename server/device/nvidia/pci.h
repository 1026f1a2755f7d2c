// What the kernel says of devices on the PCI bus. Free of torch; callable from any thread.

#ifndef SCONCE_SERVER_DEVICE_NVIDIA_PCI_H_
#define SCONCE_SERVER_DEVICE_NVIDIA_PCI_H_

#include <string>

namespace sconce {

// The NUMA node of the device at `bus_id` ("0000:3B:00.0", in either case); -1 where the machine
// has one node only, or nothing is known of such a device. `devices` has a folder per device.
int NumaNodeOfPciDevice(const std::string& bus_id,
                        const std::string& devices = "/sys/bus/pci/devices");

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_NVIDIA_PCI_H_
