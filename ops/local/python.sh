# shellcheck shell=bash
# Sourced by the commands in ops/: sets $root, and runs modules with a Python that we support.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

supported='import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'

# Become "python -m $@". The shell is gone then, so that signals reach Python itself.
exec_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python; do
    # A version manager's stub may be on PATH and yet run nothing: only trying tells.
    if "$candidate" -c "$supported" 2>/dev/null; then
      export PYTHONPATH=$root PYTHONSAFEPATH=1
      exec "$candidate" -m "$@"
    fi
  done
  cat >&2 <<'END'
callscribe needs Python 3.11 or 3.12, and found neither on PATH.
On Debian 12:       apt install python3 python3-venv
On Ubuntu 24.04:    apt install python3 python3-venv
Elsewhere, set PYTHON=/path/to/python3.12 and run this again.
END
  exit 1
}
