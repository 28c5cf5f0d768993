#!/usr/bin/env bash
# From a fresh clone to a page that shows what was learnt: installs into .venv, trains on two CPU cores in minutes.
#   bash scripts/quickstart.sh [configs/cmnist_diin.yaml]
set -euo pipefail
cd "$(dirname "$0")/.."

config="${1:-configs/mnist_diin.yaml}"
echo "Installing into .venv ..."
bash scripts/install.sh
echo "Training $config ..."
.venv/bin/iin-train -b "$config" --quick
