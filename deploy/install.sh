#!/bin/sh
# Makes the virtual environment /opt/outrider. The Dockerfiles run it in two steps, so that a change of the project's
# own code does not build llama.cpp again:
#
#   install.sh dependencies [EXTRA]
#   install.sh project
#
# Wheels that lie in deploy/wheels are taken as well as those of the package index; with PIP_NO_INDEX=1 only they are.
set -eu

ENVIRONMENT=/opt/outrider
# pip and setuptools stay here, out of the image.
BUILD=/opt/build
export PIP_FIND_LINKS=/src/deploy/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

dependencies() {
    install_packages "$@"
    python3 -m venv "$BUILD"
    python3 -m venv --without-pip "$ENVIRONMENT"
    "$BUILD/bin/pip" install --constraint constraints.txt setuptools
    python3 deploy/requirements.py "$@" >"$BUILD/requirements.txt"
    install_here --constraint constraints.txt --requirement "$BUILD/requirements.txt"
    if [ "$#" -gt 0 ]; then
        # llama.cpp needs it, and slim images lack it.
        cp "$(c++ -print-file-name=libgomp.so.1)" "$ENVIRONMENT"/lib/python3*/site-packages/llama_cpp/lib/
    fi
}

project() {
    "$BUILD/bin/pip" wheel --no-deps --no-build-isolation --wheel-dir "$BUILD/dist" .
    install_here --no-deps --no-index "$BUILD"/dist/*.whl
}

# What the build needs of the distribution: Python where the image has none, a compiler where something is compiled.
install_packages() {
    packages=""
    command -v python3 || packages="python3-dev python3-venv"
    [ "$#" -eq 0 ] || command -v c++ || packages="$packages build-essential"
    if [ -n "$packages" ]; then
        apt-get update
        # shellcheck disable=SC2086  # several words
        apt-get install --yes --no-install-recommends $packages
    fi
}

install_here() {
    "$BUILD/bin/pip" --python "$ENVIRONMENT/bin/python" install "$@"
}

"$@"
