# Sourced by the scripts beside it, from the root of the checkout: makes .venv with Atoll and what its tests need.
# Set PYTHON to choose the interpreter; otherwise the first Python 3.10 or newer that is found.

if [ ! -x .venv/bin/python ]; then
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break
    python=
  done
  [ -n "$python" ] || { echo "Python 3.10 or newer is needed; set PYTHON to its path" >&2; exit 1; }
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
if [ ! .venv/.installed -nt pyproject.toml ]; then
  echo "Installing Atoll and its test requirements into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
  touch .venv/.installed
fi
