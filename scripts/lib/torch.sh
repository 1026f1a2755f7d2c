# shellcheck shell=bash
# LibTorch out of the PyPI wheel, unpacked once into the cache beside the libraries its RPATH looks
# for. Each wheel's size and SHA-256 are pinned in wheels.txt and checked before it is unpacked.
#
# ensure_torch LAYER... sets TORCH_DIR, the folder that holds torch/ and nvidia/. The folder's name
# carries version, Python, machine and a digest of the pins, so other pins make another folder. It
# appears by a rename, whole or not at all; a later layer counts once its marker file is there.

TORCH_VERSION=2.11.0
WHEELS=$ROOT/scripts/lib/wheels.txt

# find_python: sets PYTHON and PYTHON_TAG (cp311, ...) to the system's Python 3.
find_python() {
  PYTHON=${SCONCE_PYTHON:-/usr/bin/python3}
  PYTHON_TAG=$("$PYTHON" -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null) ||
    die "cannot run $PYTHON; install Python 3 (python3, python3-venv) or set SCONCE_PYTHON to one."
  MACHINE=$(uname -m)
  [[ $(wheels_of base) == *" torch-$TORCH_VERSION-"* ]] ||
    die "no torch $TORCH_VERSION wheel is pinned for Python $PYTHON_TAG on $MACHINE; set SCONCE_PYTHON to one of Python 3.11, 3.12, 3.13 on x86_64 or aarch64."
}

# wheels_of LAYER: "size sha256 file" of this layer's wheels for this machine and Python.
wheels_of() {
  awk -v layer="$1" -v machine="$MACHINE" -v python="$PYTHON_TAG" \
    '$1 == layer && $2 == machine && ($3 == python || $3 == "any") { print $4, $5, $6 }' "$WHEELS"
}

# cuda_toolkit: prints the release of the CUDA 13 toolkit that is there, or fails.
cuda_toolkit() {
  local nvcc release
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [[ -x $nvcc ]] || return 1
  release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  [[ $release == 13.* ]] && echo "$release"
}

# cuda_libraries_present: whether the loader finds all that libtorch_cuda.so wants of a toolkit.
cuda_libraries_present() {
  local found name
  found=$(/sbin/ldconfig -p)
  for name in libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcurand.so.10 \
    libcusolver.so.12 libcusparse.so.12 libnccl.so.2 libnvJitLink.so.13; do
    grep -q "^\s*$name " <<<"$found" || return 1
  done
}

# fetch_wheel FOLDER SIZE SHA256 FILE: downloads one wheel into FOLDER and checks it.
fetch_wheel() {
  local folder=$1 size=$2 sha=$3 file=$4 name version got
  IFS=- read -r name version _ <<<"$file"
  say "fetching $name $version ($((size / 1000000)) MB)"
  quietly "$PIP_ENV/bin/pip" download --no-deps --only-binary=:all: --no-cache-dir -d "$folder" \
    "${name//_/-}==$version" ||
    die "could not download $name==$version from PyPI; check the network (and pip's proxy or index settings), then run this again."
  [[ -f $folder/$file ]] ||
    die "PyPI gave $(ls "$folder") for $name==$version, not $file; this machine's pip chose another wheel: set SCONCE_PYTHON to the distribution's own Python."
  got=$(stat -c %s "$folder/$file")
  ((got == size)) || die "$file has $got bytes, expected $size; nothing was unpacked; run this again."
  got=$(sha256sum <"$folder/$file" | cut -d' ' -f1)
  [[ $got == "$sha" ]] ||
    die "$file has SHA-256 $got, expected $sha; nothing was unpacked; check what stands between you and PyPI."
}

# unpack_layer LAYER FOLDER: fetches, checks and unpacks a layer's wheels into the new FOLDER.
unpack_layer() {
  local layer=$1 folder=$2 wheels size sha file
  wheels=$folder.wheels
  mkdir -p "$wheels"
  while read -r size sha file; do
    mkdir "$wheels/$file.d"
    fetch_wheel "$wheels/$file.d" "$size" "$sha" "$file"
  done < <(wheels_of "$layer")
  say "unpacking"
  # PIP_*: a person's own pip settings (user, prefix, constraints) must not bend an unpacking.
  quietly env PIP_CONFIG_FILE=/dev/null PIP_USER=0 "$PIP_ENV/bin/pip" install --no-deps --no-index \
    --no-compile --target "$folder" "$wheels"/*/*.whl ||
    die "could not unpack the torch wheels into $folder; check that the disk has 6 GB free, then run this again."
  rm -rf "$wheels"
}

# ensure_torch LAYER...: see the head of this file. "base" is always among them.
ensure_torch() {
  local layer partial digest
  digest=$(for layer in base cuda libs dev; do wheels_of "$layer"; done | sha256sum | cut -c1-8)
  TORCH_DIR=$CACHE/torch-$TORCH_VERSION-$PYTHON_TAG-$MACHINE-$digest
  local missing=()
  for layer in base "$@"; do
    [[ -e $TORCH_DIR/.layer-$layer ]] || missing+=("$layer")
  done
  ((${#missing[@]})) || return 0

  lock "$CACHE/torch.lock"
  PIP_ENV=$CACHE/pip-$PYTHON_TAG
  if [[ ! -e $PIP_ENV/.complete ]]; then
    rm -rf "$PIP_ENV"
    quietly "$PYTHON" -m venv "$PIP_ENV" ||
      die "$PYTHON -m venv failed; install python3-venv and run this again."
    touch "$PIP_ENV/.complete"
  fi
  partial=$CACHE/partial-${TORCH_DIR##*/}
  # What runs that were cut off left behind.
  rm -rf "$CACHE"/partial-torch-*
  for layer in "${missing[@]}"; do
    # Another run may have brought it while this one waited for the lock.
    [[ -e $TORCH_DIR/.layer-$layer ]] && continue
    unpack_layer "$layer" "$partial"
    touch "$partial/.layer-$layer"
    if [[ $layer == base ]]; then
      mv -T "$partial" "$TORCH_DIR"
    else
      # Linked, not written: a file that a running process has mapped is never changed. The marker
      # goes last.
      mv "$partial/.layer-$layer" "$partial.marker"
      cp -rlf "$partial/." "$TORCH_DIR/"
      mv "$partial.marker" "$TORCH_DIR/.layer-$layer"
      rm -rf "$partial"
    fi
  done
  unlock
  say "LibTorch $TORCH_VERSION is at $TORCH_DIR"
}

# ensure_torch_for_server: what the server is linked with: the CPU's part, or CUDA's with it.
ensure_torch_for_server() {
  if [[ ${SCONCE_CUDA:-AUTO} == ON ]] || { [[ ${SCONCE_CUDA:-AUTO} == AUTO ]] && cuda_toolkit >/dev/null; }; then
    ensure_torch_for_python
  else
    ensure_torch
  fi
}

# ensure_torch_for_python: Python's torch always loads libtorch_cuda.so, GPU or not. Where CUDA is
# demanded and there is no toolkit, the wheels stand in for it.
ensure_torch_for_python() {
  if [[ ${SCONCE_CUDA:-AUTO} == ON ]] && ! cuda_toolkit >/dev/null; then
    ensure_torch cuda libs dev
  elif cuda_libraries_present; then
    ensure_torch cuda
  else
    ensure_torch cuda libs
  fi
}
