#!/bin/sh
# Creates the environment: a venv, exactly what requirements.lock says, and this project in it.
set -eu
python=$1
venv=$2

fail() {
    echo "setup: $1" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || fail "$python is not installed. Tollkeeper needs Python 3.11 or newer; name another with: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is $("$python" -V 2>&1). Tollkeeper needs Python 3.11 or newer; name another with: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"

if [ ! -x "$venv/bin/python" ]; then
    echo "Creating the environment in $venv"
    mkdir -p "$venv" 2>/dev/null && [ -w "$venv" ] || fail "the folder $venv cannot be written to."
    "$python" -m venv "$venv"
fi
[ -w "$venv" ] || fail "the folder $venv cannot be written to."

echo "Installing what requirements.lock says"
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv 2>/dev/null; then
    "$venv/bin/uv" pip sync --quiet --compile-bytecode --python "$venv/bin/python" --require-hashes requirements.lock
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi
# A process that starts from bytecode needs a third of the time. pip compiles what it installs, but not this project.
"$venv/bin/python" -m compileall -q src
pwd -P >"$venv/.ready"
