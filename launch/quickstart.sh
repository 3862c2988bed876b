#!/usr/bin/env bash
# Trains SmolLM2-135M-Instruct on one-digit sums: makes .venv and installs, if need be, and runs.
#
#   bash launch/quickstart.sh [--dry-run] [flags of `rlpt train`, such as --config.optim.lr=2e-5]
#
# RLPT_WORKDIR  where the run goes (default: runs/quickstart); an unfinished run there goes on
# RLPT_PYTHON, RLPT_VENV: see launch/common.sh
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
  --dry-run)
    dry_run=yes
    shift
    ;;
esac

workdir="${RLPT_WORKDIR:-runs/quickstart}"
if [[ -n "${RLPT_WORKDIR:-}" && "$workdir" != /* ]]; then
  workdir="$PWD/$workdir"
fi
cd "$root"
make_venv
pip_install -e '.[quickstart]'
install_model
echo "installation: $SECONDS s"

run exec "$venv/bin/rlpt" train --config configs/quickstart.py --workdir "$workdir" "$@"
