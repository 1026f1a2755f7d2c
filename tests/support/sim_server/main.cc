// `sconce` in a process whose accelerator is simulated: sim:0, sim:1. The environment says what the
// devices are like, since the command line is the server's:
//
//   SCONCE_SIM_DEVICES  how many there are; 2 unless given
//   SCONCE_SIM_MEMORY   their bytes, "1000000,2000000"; no limit where there is none or 0
//   SCONCE_SIM_GRAPHS   0: devices that cannot capture graphs
//   SCONCE_SIM_CONTROL  the path of a socket that control.h describes

#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>

#include "server/app/run.h"
#include "tests/support/sim_server/control.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/simdevice/simdevice.h"

namespace {

std::string Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

void StartDevices() {
  namespace simdevice = sconce::simdevice;
  const int devices = std::stoi(Environment("SCONCE_SIM_DEVICES", "2"));
  simdevice::Start(devices);
  std::istringstream limits(Environment("SCONCE_SIM_MEMORY", ""));
  std::string limit;
  for (int i = 0; i < devices && std::getline(limits, limit, ','); ++i) {
    if (std::stoll(limit) > 0) simdevice::LimitMemory(simdevice::Device(i), std::stoll(limit));
  }
  simdevice::RegisterSimAccelerator(Environment("SCONCE_SIM_GRAPHS", "1") != "0");
  const std::string control = Environment("SCONCE_SIM_CONTROL", "");
  if (!control.empty()) simdevice::ServeControl(control);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    StartDevices();
  } catch (const std::exception& e) {
    std::cerr << "sconce_sim: " << e.what() << "\n";
    return 2;
  }
  return sconce::Run(argc, argv);
}
