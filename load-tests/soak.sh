#!/usr/bin/env bash
# Runs Egret for half an hour at mixed load, and says whether memory and descriptors stayed; writes SOAK.md.
#
#   ./load-tests/soak.sh                    30 minutes, 1,000 idle tunnels
#   ./load-tests/soak.sh --minutes 2        a look; writes nothing
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --package egret --package load-tests >&2

write=(--write load-tests/SOAK.md)
for argument in "$@"; do
    case $argument in --minutes* | --write*) write=() ;; esac
done
exec "${CARGO_TARGET_DIR:-target}/release/load-tests" soak "${write[@]}" "$@"
