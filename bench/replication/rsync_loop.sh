#!/usr/bin/env bash
# rsync_loop.sh RSYNC SOURCE/ TARGET...: copy to each target, again and again, until killed.
rsync=$1 source=$2
shift 2
while :; do
  for target in "$@"; do
    # Files that vanish under it (24) and targets that are just starting (10) come right in the next round.
    "$rsync" -a --delete "$source" "$target" || sleep 0.05
  done
done
