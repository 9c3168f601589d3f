#!/bin/bash
# Installs Debian 12 packages: install-packages.sh [runtime|build|tests], build if not said; tests
# includes build. Does nothing when all are there. Needs root or sudo only if something is missing.
set -euo pipefail

runtime=(libgrpc++1.51 libprotobuf32 libabsl20220623 libprometheus-cpp-core1.0 libcivetweb1 libhwy1
         libpcre2-8-0 libicu72)
build=(g++ cmake ninja-build pkg-config ccache libgrpc++-dev libprotobuf-dev protobuf-compiler
       protobuf-compiler-grpc libabsl-dev prometheus-cpp-dev libcivetweb-dev libhwy-dev libcli11-dev
       nlohmann-json3-dev libpcre2-dev libicu-dev)
tests=("${build[@]}" libgtest-dev libgmock-dev libbenchmark-dev clang clang-format python3
       python3-grpcio python3-numpy python3-protobuf prometheus)

group=${1:-build}
case $group in
  runtime | build | tests) declare -n wanted=$group ;;
  *) echo "install-packages.sh: '$group' is not one of runtime, build, tests" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install-packages.sh: not root and no sudo; install these as root: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

# The tests want promtool, nobody wants a Prometheus that runs on its own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap '"${as_root[@]}" rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod +x $policy
fi

echo "installing ${missing[*]}"
log=$(mktemp)
if ! { "${as_root[@]}" apt-get -q update &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
         apt-get -q -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "install-packages.sh: apt-get failed; all it said is in $log" >&2
  exit 1
fi
rm -f "$log"
