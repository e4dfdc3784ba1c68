#!/usr/bin/env bash
# Builds the Debian package with cargo-deb, manual pages and completions made by the binary itself.
#
#   conf/package/deb.sh OUTPUT.deb [PROFILE]    PROFILE: release, or dev for a quick look
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:?usage: conf/package/deb.sh OUTPUT.deb [PROFILE]}
profile=${2:-release}
case $profile in dev) built=target/debug ;; *) built=target/$profile ;; esac
cargo deb --version >/dev/null 2>&1 || cargo install -q --locked cargo-deb
cargo build --locked --bin egret --profile "$profile"
made=target/package
rm -rf "$made"
mkdir -p "$made"
"$built/egret" man --dir "$made/man"
gzip -9n "$made"/man/*.1
for shell in bash zsh fish; do "$built/egret" completions $shell > "$made/egret.$shell"; done
"$built/egret" schema > "$made/egret.schema.json"
# cargo-deb looks for the binary where a release build puts it.
if [ "$profile" != release ]; then mkdir -p target/release && cp "$built/egret" "$made/egret"; else cp "$built/egret" "$made/egret"; fi
cargo deb --no-build --no-strip --locked -o "$output"
