#!/bin/bash
# Runs tests with label gpu under NVIDIA's compute-sanitizer, each in a process of its own; needs a GPU and preset
# cuda built. Checked kernels take 10 to 1,000 times as long, so of each test only the first launches are checked.
#
#   tests/sanitize_gpu.sh memcheck                                 # every test binary of that label
#   tests/sanitize_gpu.sh racecheck cuda_memory_test '*gated_delta*'   # one binary, some of its tests
#
# racecheck of CUDA 13.0 ends with "failed to handle a hardware exception" where blocks of a cluster send one another
# numbers (products of more than 16 rows and of --batch-invariant: matmul_tiles.cu), and calls that a hazard in the
# smallest such program. Of prompts it reports that weights are copied to where a warp still reads (prefill_pass.cu):
# there the warp's first lane says for all of them that they are done (ArrivalBarrier), which it does not follow. Where
# every lane says so for itself it reports nothing, but prompts of the delta rule take a fifth longer.
#
# LAUNCHES (20), JOBS (4 processes at a time), BUILD (build/cuda). Prints each test as it ends, and fails if one has a
# finding.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tool=${1:?usage: tests/sanitize_gpu.sh memcheck|racecheck|initcheck|synccheck [BINARY [FILTER]]}
filter=${3:-*}
export tool BUILD=${BUILD:-build/cuda} LAUNCHES=${LAUNCHES:-20}
# cuda_errors_test breaks the device on purpose.
binaries=$(find "$BUILD/tests" -type f -name "${2:-*cuda*_test}" ! -name cuda_errors_test -perm -u+x)

check() {  # check BINARY TEST
  local out
  if ! out=$(compute-sanitizer --tool "$tool" --launch-count "$LAUNCHES" --error-exitcode 99 \
             "$1" --gtest_filter="$2" 2>&1); then
    echo "$2 ($1):"
    grep -E "=========|Failure" <<<"$out" | head -30
    return 1
  fi
  echo "clean: $2"
}
export -f check

for binary in $binaries; do
  "$binary" --gtest_list_tests --gtest_filter="$filter" |
    awk -v binary="$binary" '/^[^ ]/ {suite = $1} /^ / {print binary, suite $1}'
done >"$BUILD/sanitize.list"
echo "$(wc -l <"$BUILD/sanitize.list") tests under $tool, the first $LAUNCHES launches of each"
xargs -r -a "$BUILD/sanitize.list" -L1 -P"${JOBS:-4}" bash -c 'check "$@"' check && echo "no finding"
