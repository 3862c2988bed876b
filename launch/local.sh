#!/usr/bin/env bash
# Runs `rlpt` on this machine, in the repository: makes .venv and installs, if need be, and runs.
#
#   bash launch/local.sh [--dry-run] [--restarts N] COMMAND of rlpt, such as
#   bash launch/local.sh --restarts 3 train --config configs/tempo.py --workdir runs/tempo
#
# --restarts  how often a run that was killed (out of memory, a crash of the driver) is started
#             again, which resumes it (default: 0); an error that says what to do is no such case
# RLPT_EXTRAS  what is installed besides the core, in place of the default, which is quickstart (what
#              the embedded model and the generated tasks need) and, where nvidia-smi finds a GPU,
#              cuda: such as quickstart,tpu
# RLPT_PYTHON, RLPT_VENV: see launch/common.sh
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

restarts=0
while (($#)); do
  case "$1" in
    -h | --help)
      usage
      exit
      ;;
    --dry-run) dry_run=yes ;;
    --restarts)
      [[ "${2:-}" =~ ^[0-9]+$ ]] || die "--restarts: got '${2:-}', expected a number"
      restarts="$2"
      shift
      ;;
    *) break ;;
  esac
  shift
done
(($#)) || die "which command of rlpt? bash $0 --help shows an example"

extras="quickstart"
if [[ -n "${RLPT_EXTRAS:-}" ]]; then
  extras="$RLPT_EXTRAS"
elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  extras="quickstart,cuda"
fi

cd "$root"
make_venv
pip_install -e ".[$extras]"
install_model

for ((start = 0; ; start++)); do
  code=0
  run "$venv/bin/rlpt" "$@" || code=$?
  # 1 and 2 are errors that rlpt explains, 130 is a stop by the user
  case "$code" in
    0 | 1 | 2 | 130) exit "$code" ;;
  esac
  if ((start == restarts)); then
    die "rlpt ended with status $code; --restarts $((restarts + 1)) would start it again"
  fi
  echo "rlpt ended with status $code: start $((start + 2)) of $((restarts + 1))" >&2
done
