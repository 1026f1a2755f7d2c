# shellcheck shell=bash
# Configuring and building the presets.

# jobs: one per core, and no more than the free memory allows at 2 GB each.
jobs() {
  local cores free
  cores=$(nproc)
  free=$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo)
  ((free < 1)) && free=1
  echo "${CMAKE_BUILD_PARALLEL_LEVEL:-$((cores < free ? cores : free))}"
}

# say_which_build: tells what CMake's SCONCE_CUDA will decide.
say_which_build() {
  local release
  if [[ ${SCONCE_CUDA:-AUTO} == OFF ]]; then
    say "SCONCE_CUDA=OFF: building for the CPU only"
  elif release=$(cuda_toolkit); then
    say "CUDA toolkit $release found: building with CUDA (a machine without a GPU serves on the CPU)"
  elif [[ ${SCONCE_CUDA:-AUTO} == ON ]]; then
    say "SCONCE_CUDA=ON and no CUDA 13 toolkit found: building with the one in the wheels"
  else
    say "no CUDA 13 toolkit found: building for the CPU only"
  fi
}

# configure PRESET CMAKE_OPTION...
configure() {
  local preset=$1
  shift
  say "configuring build/$preset"
  (cd "$ROOT" && quietly cmake --preset "$preset" "$@") ||
    die "CMake could not configure build/$preset for the reason above; if the build folder is from elsewhere, remove build/$preset and run this again."
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  say "building build/$preset with $(jobs) jobs"
  (cd "$ROOT" && cmake --build --preset "$preset" -j "$(jobs)" ${1:+--target "$@"}) ||
    die "build/$preset does not build; the compiler's message is above."
}
