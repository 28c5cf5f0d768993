#!/usr/bin/env bash
# Make a virtual environment in .venv and install this checkout into it, with the extras given as arguments.
#   bash scripts/install.sh [extra ...]       PYTHON=python3.12 picks the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: $("$python" --version) is too old; iin needs Python 3.10 or newer (set PYTHON=...)" >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv

extras="$(IFS=,; echo "$*")"
.venv/bin/pip install --quiet --editable ".${extras:+[$extras]}"
