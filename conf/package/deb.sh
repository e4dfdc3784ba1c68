#!/usr/bin/env bash
# Builds the Debian package with cargo-deb, manual pages and completions made by the binary itself.
#
#   conf/package/deb.sh OUTPUT.deb [PROFILE]    PROFILE: release, or dev for a quick look
#   EGRET_BINARY=FILE                           takes this one in place of building it
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:?usage: conf/package/deb.sh OUTPUT.deb [PROFILE]}
profile=${2:-release}
case $profile in dev) binary=target/debug/egret ;; *) binary=target/$profile/egret ;; esac
binary=${EGRET_BINARY:-$binary}
cargo deb --version >/dev/null 2>&1 || cargo install -q --locked cargo-deb
[ -n "${EGRET_BINARY-}" ] || cargo build --locked --bin egret --profile "$profile"
made=target/package
rm -rf "$made"
mkdir -p "$made"
"$binary" man --dir "$made/man"
gzip -9n "$made"/man/*.1
for shell in bash zsh fish; do "$binary" completions $shell > "$made/egret.$shell"; done
"$binary" schema > "$made/egret.schema.json"
# cargo-deb looks for the binary where a release build puts it.
mkdir -p target/release
cp "$binary" "$made/egret"
cargo deb --no-build --no-strip --locked -o "$output"
