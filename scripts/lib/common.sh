# shellcheck shell=bash
# Names set here are for the scripts that source this.
# shellcheck disable=SC2034
# What every script here starts from: where things are, and how to speak to the person who waits.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${SCONCE_CACHE:-${HOME:?HOME is not set; set it, or SCONCE_CACHE, to a folder to keep downloads in}/.cache/sconce}

# say WORDS...: one progress line with the time since the script began.
say() { printf '==> [%3d s] %s\n' "$SECONDS" "$*"; }

# die WORDS...: the one sentence that says what is wrong and what to do; ends the script.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# quietly COMMAND...: runs it with its output in a log, and shows a sign of life every 15 seconds.
# Returns its status; on failure the last lines of the log have been shown. One at a time.
quietly() {
  local log pid status=0 began=$SECONDS
  log=$(mktemp "${TMPDIR:-/tmp}/sconce-log.XXXXXX")
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  # A background job does not see Ctrl-C; pass it on.
  trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - began >= 15)); then
      began=$SECONDS
      say "    still at it"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if ((status != 0)); then
    tail -n 15 "$log" | sed 's/^/    /' >&2
  fi
  rm -f "$log"
  return "$status"
}

# lock FILE: holds FILE until unlock; waits while another run of these scripts holds it.
lock() {
  mkdir -p "$(dirname "$1")" 2>/dev/null ||
    die "cannot make the folder $(dirname "$1"); set SCONCE_CACHE to a folder you can write to."
  exec {LOCK_FD}>"$1" || die "cannot write $1; set SCONCE_CACHE to a folder you can write to."
  if ! flock -n "$LOCK_FD"; then
    say "another run is at work here; waiting for it"
    flock "$LOCK_FD"
  fi
}
unlock() { exec {LOCK_FD}>&-; }
