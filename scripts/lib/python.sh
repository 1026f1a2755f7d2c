# shellcheck shell=bash
# Python environments in the cache, one for each requirements file. Its pins are complete and
# installed without resolving; the folder's name carries their digest, so other pins make another
# environment and a second run only looks for the marker.

# ensure_env NAME REQUIREMENTS [TORCH_DIR]: sets ENV_DIR. With TORCH_DIR, its torch is importable
# there through a .pth file: no second copy.
ensure_env() {
  local name=$1 requirements=$2 torch=${3:-} digest
  # With the file that it begins with, if it names one ("-r requirements.txt").
  digest=$({ cat "$requirements" && included=$(sed -n 's/^-r //p' "$requirements") &&
    { [[ -z $included ]] || cat "$(dirname "$requirements")/$included"; } &&
    echo "$PYTHON $PYTHON_TAG $torch"; } | sha256sum | cut -c1-8)
  ENV_DIR=$CACHE/env-$name-$PYTHON_TAG-$digest
  [[ -e $ENV_DIR/.complete ]] && return 0

  lock "$CACHE/env-$name.lock"
  if [[ ! -e $ENV_DIR/.complete ]]; then
    say "making the Python environment '$name'"
    rm -rf "$ENV_DIR"
    quietly "$PYTHON" -m venv "$ENV_DIR" ||
      die "$PYTHON -m venv failed; install python3-venv and run this again."
    quietly env PIP_USER=0 "$ENV_DIR/bin/pip" install --no-deps --only-binary=:all: --prefer-binary -r "$requirements" ||
      die "pip could not install $requirements; check the network (and pip's proxy or index settings), then run this again."
    if [[ -n $torch ]]; then
      echo "$torch" >"$(echo "$ENV_DIR"/lib/python3*/site-packages)/sconce-torch.pth"
      "$ENV_DIR/bin/python" -c 'import torch, torchvision' ||
        die "Python cannot import torch from $torch; remove that folder and run this again."
    fi
    touch "$ENV_DIR/.complete"
  fi
  unlock
}

# ensure_perf_analyzer: sets PERF_ANALYZER to a script that runs it with the libraries it wants, or
# to nothing on a machine there is no build of it for.
ensure_perf_analyzer() {
  PERF_ANALYZER=
  [[ $MACHINE == x86_64 ]] || return 0
  ensure_env perf "$ROOT/tests/requirements-perf.txt"
  PERF_ANALYZER=$ENV_DIR/bin/sconce-perf-analyzer
  [[ -e $PERF_ANALYZER ]] && return 0
  local site
  site=$(echo "$ENV_DIR"/lib/python3*/site-packages)
  cat >"$PERF_ANALYZER.$$" <<SCRIPT
#!/bin/sh
LD_LIBRARY_PATH=$site/nvidia/cuda_runtime/lib exec $ENV_DIR/bin/perf_analyzer "\$@"
SCRIPT
  chmod +x "$PERF_ANALYZER.$$"
  mv "$PERF_ANALYZER.$$" "$PERF_ANALYZER"
}
