#!/bin/bash
# Runs a command of this repository in a clean Debian 12, as root:
#   deploy/try-in-clean-debian.sh [--root FOLDER] [COMMAND...]     (deploy/quickstart.sh if none)
# The root file system is made once with debootstrap and then copied for each run, so that every run
# starts without a single package installed by hand. Only tracked and new files of the working tree
# go in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=/var/tmp/evenflow-debian-12
if [[ ${1:-} == --root ]]; then
  root=$2
  shift 2
fi
command=("$@")
((${#command[@]})) || command=(deploy/quickstart.sh)
if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then
  echo "try-in-clean-debian.sh: needs root and the package debootstrap" >&2
  exit 1
fi

if [[ ! -e $root/.complete ]]; then
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root" ${DEBIAN_MIRROR:-}
  touch "$root/.complete"
fi
run=$root-run
cleanup() {
  for mounted in dev/pts dev proc; do
    mountpoint -q "$run/$mounted" && umount "$run/$mounted"
  done
  rm -rf --one-file-system "$run"
}
trap cleanup EXIT
cleanup
cp -a "$root" "$run"
mount -t proc proc "$run/proc"
mount --bind /dev "$run/dev"
cp -L /etc/resolv.conf "$run/etc/resolv.conf"
mkdir "$run/evenflow"
git ls-files --cached --others --exclude-standard -z |
  tar --create --null --files-from=- | tar --extract --directory "$run/evenflow"
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
  chroot "$run" bash -c 'cd /evenflow && exec "$@"' bash "${command[@]}"
