#!/usr/bin/env bash
# Runs the tests: makes .venv and installs, if need be, and runs pytest.
#
#   bash launch/test.sh [--all] [--slow] [--dry-run] [arguments of pytest, such as -k metrics]
#
# --all   what CI runs: also ruff, mypy and what needs torch, W&B and Debian's packages; a skipped
#         test is a failure. Without it, tests of a part that is not installed are skipped.
# --slow  also the tests marked slow
# RLPT_PYTHON, RLPT_VENV: see launch/common.sh
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

debian_packages="bubblewrap shellcheck" # a sandbox for verifiers; a linter for these scripts

# Stages of their own; what is not named here is the core.
methods=(
  tests/test_{advantages,bandit,branching,consensus,controllers,coverifiers,golden,guidance}.py
  tests/test_{identities,layouts,likelihood,losses,methods,noise,noise_gradients}.py
  tests/test_{preference,process,rewards,rubrics,scorers,tree,verifiers_outcomes}.py
  tests/test_{search,selfplay,turns}.py
)
faults=(
  tests/test_{checkpoint,code,confined,distributed,embedded_judge,faults,fuzz,judge,sandbox}.py
  tests/test_{verifiers,workdir}.py
)
pages=(tests/test_{benchmarks,docs,doctor,evaluate,evidence,launch,report,serve,sweep}.py)
# Begun first in their stage, so that no process is left alone with one of them at the end.
long=(
  tests/test_{sharding,models,train,cli,transfers,overlap,weights}.py
  tests/test_{methods,noise_gradients,preference,layouts,bandit,search}.py
  tests/test_{faults,distributed,judge,embedded_judge}.py
  tests/test_{benchmarks,evaluate,sweep,evidence,docs}.py
)

all=""
options=(--durations=10)
while (($#)); do
  case "$1" in
    -h | --help)
      usage
      exit
      ;;
    --all)
      all=yes
      options+=(--no-skips)
      ;;
    --slow) options+=(--slow) ;;
    --dry-run) dry_run=yes ;;
    *) break ;;
  esac
  shift
done

# torch is the oracle of the logits. Its wheel for CUDA, several gigabytes, is never installed here.
install_torch() {
  local wanted wheel
  wanted="$(sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' setup.py)"
  if "$venv/bin/python" -m pip show torch 2>/dev/null | grep -q "^Version: ${wanted#torch==}"; then
    return
  fi
  wheel="$wanted"
  if [[ "$(uname -sm)" == "Linux x86_64" ]]; then
    wheel="$wanted+cpu"
  fi
  pip_install "$wheel" ||
    die "pip finds no CPU wheel of $wanted for $("$venv/bin/python" --version). Get it with" \
      "$venv/bin/pip install $wanted --index-url https://download.pytorch.org/whl/cpu" \
      "and run this again, or run it without --all: the tests that need torch are then skipped"
}

install_debian() {
  local package missing=""
  for package in $debian_packages; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=" $package"
  done
  if [[ -z "$missing" ]]; then
    return
  fi
  if ! command -v apt-get >/dev/null || [[ "$(id -u)" != 0 ]]; then
    die "--all needs$missing: install them as root, and run this again"
  fi
  run apt-get update -qq
  # shellcheck disable=SC2086
  run apt-get install -y -qq --no-install-recommends $missing
}

cd "$root"
make_venv
if [[ -n "$all" ]]; then
  install_torch
  pip_install -e '.[docs,notebooks,quickstart,test,wandb]'
  install_debian
else
  pip_install -e '.[docs,notebooks,quickstart,test]'
fi
install_model
echo "installation: $SECONDS s"

failed=""
# check NAME COMMAND: runs it, and goes on when it fails.
check() {
  local name="$1"
  shift
  echo "== $name"
  run "$@" || failed+=" $name"
}

if [[ -n "$all" ]]; then
  check ruff "$venv/bin/ruff" check .
  check format "$venv/bin/ruff" format --check --quiet .
  check mypy "$venv/bin/mypy"
fi
if (($#)); then
  check pytest "$venv/bin/python" -m pytest "${options[@]}" "$@"
else
  # Files side by side, each as a whole: what a file compiles its tests share.
  options+=(--numprocesses "$(($(nproc) < 4 ? $(nproc) : 4))" --dist loadfile)
  options+=(--no-loadscope-reorder)
  # stage NAME FILE...
  stage() {
    local name="$1" file files=()
    shift
    for file in "${long[@]}"; do
      if [[ " $* " == *" $file "* ]]; then files+=("$file"); fi
    done
    for file in "$@"; do
      if [[ " ${files[*]} " != *" $file "* ]]; then files+=("$file"); fi
    done
    check "$name" "$venv/bin/python" -m pytest "${options[@]}" "${files[@]}"
  }
  core=()
  for file in tests/test_*.py; do
    [[ " ${methods[*]} ${faults[*]} ${pages[*]} " == *" $file "* ]] || core+=("$file")
  done
  stage core "${core[@]}"
  stage methods "${methods[@]}"
  stage faults "${faults[@]}"
  stage pages "${pages[@]}"
  options+=(--dist worksteal) # no tests there share anything
  for directory in tests/*/; do # further stages: one directory each
    if compgen -G "${directory}test_*.py" >/dev/null; then
      stage "$(basename "$directory")" "$directory"
    fi
  done
fi
if [[ -n "$failed" ]]; then
  die "failed:$failed"
fi
