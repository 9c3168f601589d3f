#!/bin/bash
# Installs what is missing, builds, runs all tests that need no GPU; ends with ctest's summary.
# Arguments go to ctest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/install-packages.sh tests

# What both presets compile alike is compiled once: paths count from the build directory, wherever that is.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

configure() {  # configure PRESET
  local options=(-DBUILD_TESTING=ON)
  command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake --preset "$1" "${options[@]}"
}

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
if [[ -z $nvcc ]]; then
  echo "preset cuda: skipped, nvcc was not found"
else
  export CUDACXX=$nvcc
  configure cuda
  cmake --build --preset cuda --parallel "$(nproc)"
  ctest --preset all -R '^client_with_server_test$'  # it serves on a CPU, too
fi

configure cpu
cmake --build --preset cpu --parallel "$(nproc)"
ctest --preset cpu "$@"
