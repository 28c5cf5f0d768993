#!/usr/bin/env bash
# Everything that must hold: lint, types, fast tests, slow tests, the commands of the README.
#   bash scripts/test.sh            all of it
#   bash scripts/test.sh fast       lint, types and fast tests only
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh test
bin=.venv/bin
# One thread: toy networks gain nothing from a second one, and lose much where cores are shared.
export OMP_NUM_THREADS=1

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
# Two processes, a file in one of them from its beginning to its end: what it prepares once is not prepared twice.
tests=("$bin/python" -m pytest -q -n 2 --dist loadfile)
"${tests[@]}" -m "not slow" --durations=5
[ "${1:-all}" = fast ] && exit 0
"${tests[@]}" -m slow --durations=15

# The first command of the README, on all cores, in a folder of its own.
unset OMP_NUM_THREADS
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
IIN_LOGS="$logs" bash scripts/quickstart.sh
run="$(ls -d "$logs"/*_mnist_diin)"
"$bin/python" scripts/check_run.py "$run" swaps/digit/follows:0.88 swaps/digit/stays:0.88 inversion/max:1e-4
"$bin/iin-eval" -p "$run/config.yaml" evaluate=swaps,inversion
