#!/bin/bash
# From a fresh Debian 12 to streamed text: installs packages, builds, serves models/demo on free
# ports, streams one generation, stops the server. Arguments go to `evenflow generate`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step "packages"
deploy/install-packages.sh build

step "build (first time: some minutes)"
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
work=$(mktemp -d)
server=
cleanup() {
  [[ -n $server ]] && kill -KILL "$server" 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cmake --preset cpu -DBUILD_TESTING=OFF "${launcher[@]}" >"$work/configure" || {
  cat "$work/configure" >&2
  exit 1
}
cmake --build --preset cpu --target evenflow --parallel "$(nproc)"

step "serve models/demo"
build/cpu/evenflow serve --model models/demo --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
  >"$work/addresses" 2>"$work/log" &
server=$!
ready() {  # the server said where it listens, and /readyz answers 200
  address=$(sed -n 's/^listening on //p' "$work/addresses")
  metrics=$(sed -n 's|^metrics on http://\(.*\)/metrics$|\1|p' "$work/addresses")
  [[ -n $address && -n $metrics ]] || return 1
  { exec 3<>"/dev/tcp/${metrics%:*}/${metrics##*:}"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  local status
  read -r status <&3 || true
  exec 3>&-
  [[ $status == *" 200 "* ]]
}
for ((i = 0; ; ++i)); do
  ready && break
  if ! kill -0 "$server" 2>/dev/null || ((i == 600)); then
    cat "$work/log" >&2
    echo "quickstart.sh: the server did not become ready" >&2
    exit 1
  fi
  sleep 0.1
done
echo "gRPC on $address, metrics on http://$metrics/metrics"

prompt="The history of the computer"
step "generate, continuing \"$prompt\""
if (($#)); then
  build/cpu/evenflow generate --server "$address" "$@"
else
  build/cpu/evenflow generate --server "$address" --prompt "$prompt" --max-tokens 120 \
    --temperature 0.8 --top-p 0.95 --seed 1 --stats
fi

step "stop"
kill -TERM "$server"
if ! wait "$server"; then
  cat "$work/log" >&2
  echo "quickstart.sh: the server did not stop cleanly" >&2
  exit 1
fi
server=
cat <<'EOF'
The server drained and exited. Run it yourself:
  build/cpu/evenflow serve --model models/demo
  build/cpu/evenflow chat
EOF
