# shellcheck shell=bash
# Names set here are for the scripts that source this.
# shellcheck disable=SC2034
# Debian and Ubuntu packages. Nothing is asked of apt where all of them are there already.

BUILD_PACKAGES=(
  g++ cmake ninja-build ccache mold git ca-certificates python3 python3-venv
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  prometheus-cpp-dev libcli11-dev libspdlog-dev nlohmann-json3-dev libcpp-httplib-dev libxxhash-dev
  libssl-dev libgtest-dev libgmock-dev libbenchmark-dev
)
# Of these, what the GPU suite's device part and bench/gpu take.
DEVICE_PACKAGES=(
  g++ cmake ninja-build ca-certificates python3 python3-venv libabsl-dev nlohmann-json3-dev
  libxxhash-dev libssl-dev libgtest-dev libgmock-dev prometheus-cpp-dev libspdlog-dev libcli11-dev
)
# perf_analyzer links libb64; clang brings libFuzzer.
TEST_PACKAGES=(libb64-0d clang libclang-rt-dev)
# A container image without a container engine.
IMAGE_PACKAGES=(buildah debootstrap debian-archive-keyring iproute2)

# ensure_packages NAME...: installs those that are missing, as root or with sudo.
ensure_packages() {
  local missing=() name as_root=()
  command -v dpkg-query >/dev/null ||
    die "this is not Debian or Ubuntu (dpkg-query is missing): install by hand what README.md lists."
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true) == installed ]] ||
      missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "these packages are missing; install them as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  local options=(-y -q --no-install-recommends -o "DPkg::Lock::Timeout=300")
  quietly "${as_root[@]}" apt-get update -q ||
    die "apt-get update failed; check the network and /etc/apt/sources.list, then run this again."
  quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "${missing[@]}" ||
    die "apt-get could not install ${missing[*]}; run 'apt-get install ${missing[*]}' to see why, then run this again."
}
