#!/bin/sh
# run.sh PYTHON SCRIPT ARGS...: runs a test with the venv's Python, or fails saying how to get it.
python=$1
shift
if [ ! -x "$python" ]; then
  echo "FAILED: $python does not exist. The tests with outside programs need the venv of packages/pip.txt:" >&2
  echo "  ./dev test makes it; by hand: python3 -m venv .venv && .venv/bin/pip install -r packages/pip.txt;" >&2
  echo "  another Python that has them: cmake -DTESSERA_PYTHON=/path/to/python3" >&2
  exit 1
fi
exec "$python" -B "$@"
