#!/usr/bin/env bash
# The programs that the benchmarks run beside ours, from Debian's packages: rsync, xxhsum (xxhash), b3sum, rclone,
# hashdeep, Syncthing, lsyncd. Nothing of the project needs them; without one its rows say so, and its bounds count
# as not measured.
set -euo pipefail

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
failed=0
for package in rsync xxhash b3sum rclone hashdeep syncthing lsyncd; do
  # RUNLEVEL=1: their own daemons are not started.
  if ! as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
    echo "could not install $package: its rows will say so" >&2
    failed=1
  fi
done
exit "$failed"
