#!/usr/bin/env bash
# Everything `make demo` and `make test` need: system packages, .venv, the Python packages, compiled kernels. Quick when
# all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
STAMP=$VENV/.fastlabel-setup
KERNELS_STAMP=$VENV/.fastlabel-kernels
export DEBIAN_FRONTEND=noninteractive

say() { echo "setup: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }

has_package() { dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed'; }

# ffcv is compiled on installation, against libturbojpeg and OpenCV.
missing_packages() {
    command -v pkg-config >/dev/null || echo pkg-config
    command -v g++ >/dev/null || echo g++
    command -v "$PYTHON" >/dev/null || echo python3
    has_library libturbojpeg libturbojpeg0-dev
    has_library opencv4 libopencv-dev
    missing_python_packages
}

has_library() { # pkg-config name, Debian package
    pkg-config --exists "$1" 2>/dev/null || has_package "$2" || echo "$2"
}

# ensurepip and Python.h are Debian packages of their own; a Python that was built or bought elsewhere brings both.
missing_python_packages() {
    if ! command -v "$PYTHON" >/dev/null; then
        printf '%s\n' python3-venv python3-dev
        return
    fi
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(
        sysconfig.get_paths()["include"], "Python.h")))' 2>/dev/null || echo python3-dev
}

install_packages() {
    local line="apt-get update && apt-get install -y --no-install-recommends $*"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            fail "system packages are missing and this user cannot install them; as root, run: $line"
        fi
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || fail "no apt-get here; install what these Debian packages hold: $*"
    say "installing system packages: $*"
    "${as_root[@]}" apt-get update -qq </dev/null || fail "apt-get update failed; by hand: $line"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >&2 ||
        fail "this failed: $line"
}

check_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is $("$PYTHON" -V 2>&1); fastlabel needs Python 3.11 or later: make PYTHON=python3.11"
}

# Changes when the packages to install change, or the Python or the folder that .venv was made for.
wanted() {
    { cat pyproject.toml constraints.txt scripts/setup.sh; "$PYTHON" -V; pwd; } | sha256sum | cut -d' ' -f1
}

is_done() {
    [ -x "$VENV/bin/fastlabel" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted)" ]
}

# Changes when the sources of compiled kernels change, or the packages that compile them.
wanted_kernels() {
    { wanted; cat kernels/*.py kernels/*/*.py fastlabel/images/*.py fastlabel/dataset/{turbojpeg,tables}.py; } | sha256sum | cut -d' ' -f1
}

# Numba compiles a kernel when it is first called, and keeps it: do that here, not in the user's first command.
compile_kernels() {
    local key
    key="$(wanted_kernels)"
    if [ "$(cat "$KERNELS_STAMP" 2>/dev/null)" = "$key" ]; then
        return
    fi
    say "compiling kernels (about a minute, once)"
    timeout 600 "$VENV/bin/python" -m fastlabel.cli.warm </dev/null ||
        say "the kernels could not be compiled now; the first command compiles what it uses"
    echo "$key" >"$KERNELS_STAMP"
}

main() {
    install
    compile_kernels
}

install() {
    if command -v "$PYTHON" >/dev/null && is_done; then
        return
    fi
    local missing=()
    mapfile -t missing < <(missing_packages)
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    check_python
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || [ "$("$VENV/bin/python" -V)" != "$("$PYTHON" -V)" ]; then
        say "creating $VENV"
        "$PYTHON" -m venv --clear "$VENV"
    fi
    say "installing Python packages into $VENV (minutes the first time)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' \
        </dev/null >&2 || fail "the Python packages could not be installed; the lines above say why"
    wanted >"$STAMP"
    say "done"
}

main
