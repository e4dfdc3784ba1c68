#!/usr/bin/env bash
# Proves what is shipped around the binary, as far as that is possible without a daemon of containers and without touching this machine:
#
#   image       the Dockerfile's steps; then the image's files as the whole root of a process: read-only, user 65532, a network of its
#               own; HEALTHCHECK's command, a CONNECT, and the end by the image's STOPSIGNAL
#   deb         the Debian package, installed into a root of its own by dpkg; its binary serves from there; removed again
#   monitoring  promtool on the alert rules; a Prometheus that scrapes a running Egret and evaluates them (from Debian's package if
#               there is none, unpacked and not installed)
#
#   conf/package/prove.sh [image|deb|monitoring]...   nothing named: all. Needs root; builds release binaries, which takes minutes.
#   EGRET_IMAGE_BINARY=FILE, EGRET_BINARY=FILE        take these (static, and of this machine) in place of building them
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "needs root: for a root folder and a user of another number" >&2; exit 77; }

work=$(mktemp -d)
children=()
cleanup() {
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap cleanup EXIT
say() { printf '%s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# Waits up to 20 s until a command succeeds.
until_ok() {
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "not within 20 s: $*"
}
binary() {
    if [ -n "${EGRET_BINARY-}" ]; then realpath "$EGRET_BINARY"; else
        cargo build --release --locked --bin egret >&2
        realpath "${CARGO_TARGET_DIR:-target}/release/egret"
    fi
}

image() {
    conf/package/image.sh "$work" ${EGRET_IMAGE_BINARY:+"$(realpath "$EGRET_IMAGE_BINARY")"}
    local root=$work/image
    if readelf -lW "$root/egret" | grep -q INTERP; then fail "the image's binary asks for a loader, which the image has not"; fi
    # What a container runtime puts in.
    mkdir -p "$root"/{proc,dev} && touch "$root"/dev/{null,random,urandom}
    cat >"$work/inside.sh" <<INSIDE
set -euo pipefail
ip link set lo up
mount --bind "$root" "$root"
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"
for device in null random urandom; do mount --bind /dev/\$device "$root/dev/\$device"; done
mount -o remount,bind,ro "$root"
as_image() { env -i EGRET_CONFIG=/etc/egret/egret.yaml /usr/sbin/chroot --userspec=65532:65532 --groups=65532 "$root" "\$@"; }
if as_image /egret healthcheck 2>/dev/null; then echo "healthy before it runs" >&2; exit 1; fi
env -i EGRET_CONFIG=/etc/egret/egret.yaml /usr/sbin/chroot --userspec=65532:65532 --groups=65532 "$root" /egret run --allow-address 127.0.0.0/8 >"$work/access.log" 2>"$work/egret.log" &
egret=\$!
for _ in \$(seq 200); do as_image /egret healthcheck 2>/dev/null && break; sleep 0.1; done
as_image /egret healthcheck
[ "\$(stat -c %u:%g /proc/\$egret)" = 65532:65532 ]
if ( umask 0; : >"$root/written" ) 2>/dev/null; then echo "the root can be written to" >&2; exit 1; fi
python3 -m http.server --bind 127.0.0.1 --directory "$root/etc/egret" 8000 >/dev/null 2>&1 &
server=\$!
for _ in \$(seq 100); do curl -s -o /dev/null http://127.0.0.1:8000/ && break; sleep 0.1; done
curl -sS --fail --max-time 10 --proxytunnel -x http://127.0.0.1:3128 http://127.0.0.1:8000/egret.yaml | cmp - "$root/etc/egret/egret.yaml"
kill \$server
kill -TERM \$egret
wait \$egret
INSIDE
    unshare --mount --net -- bash "$work/inside.sh" || { cat "$work/egret.log" >&2; fail image; }
    grep -q '"CONNECT - HTTP/1.1" 200' "$work/access.log" || fail "the flow is not in the access log"
    say "image: $(du -h --apparent-size "$root/egret" | cut -f1) static, read-only, as 65532: healthy, a CONNECT, ended in order by TERM"
}

deb() {
    local package=$work/egret.deb root=$work/root
    conf/package/deb.sh "$package"
    mkdir -p "$root"/var/lib/dpkg/{info,updates}
    touch "$root"/var/lib/dpkg/{status,available}
    # What it depends on is this machine's.
    dpkg --root="$root" --log=/dev/null --force-depends --install "$package" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; fail dpkg; }
    for file in usr/bin/egret usr/lib/systemd/system/egret.service usr/lib/systemd/system/egret.socket etc/egret/egret.yaml \
        etc/default/egret etc/logrotate.d/egret usr/share/man/man1/egret.1.gz usr/share/bash-completion/completions/egret; do
        [ -e "$root/$file" ] || fail "the package has no $file"
    done
    grep -q '^Status: install ok installed' "$root/var/lib/dpkg/status" || fail "dpkg does not call it installed"
    # Not --strict: the folder of the log is made by the unit (LogsDirectory=), and is not there before it runs.
    "$root/usr/bin/egret" check -c "$root/etc/egret/egret.yaml"
    "$root/usr/bin/egret" run --listen 127.0.0.1:0 --admin 127.0.0.1:0 2>"$work/deb.log" >/dev/null &
    local egret=$!
    children+=("$egret")
    until_ok grep -q "listening " "$work/deb.log"
    "$root/usr/bin/egret" healthcheck --admin "$(sed -n 's/.*admin=\([^ ]*\).*/\1/p' "$work/deb.log")"
    kill -TERM "$egret"
    wait "$egret" || fail "it did not end in order"
    dpkg --root="$root" --log=/dev/null --purge egret >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; fail "dpkg --purge"; }
    if [ -n "$(find "$root" -type f -not -path '*/var/lib/dpkg/*')" ]; then fail "purged, and files are left"; fi
    say "deb: $(du -h --apparent-size "$package" | cut -f1), installed, checked, served, purged"
}

monitoring() {
    local egret=${EGRET_BINARY-} found=()
    egret=$(binary)
    if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
        mkdir "$work/prometheus" && chmod 777 "$work/prometheus"
        (cd "$work/prometheus" && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb .)
        PATH=$work/prometheus/usr/bin:$PATH
    fi
    promtool check rules conf/monitoring/egret-alerts.yaml
    "$egret" run --listen 127.0.0.1:0 --admin 127.0.0.1:0 2>"$work/monitored.log" >/dev/null &
    children+=("$!")
    until_ok grep -q "listening " "$work/monitored.log"
    local admin proxy
    admin=$(sed -n 's/.*admin=\([^ ]*\).*/\1/p' "$work/monitored.log")
    proxy=$(sed -n 's/.*proxy=\([^ ]*\).*/\1/p' "$work/monitored.log")
    curl -s -o /dev/null -x "http://$proxy" http://127.0.0.1:1/ || true # refused: counts one flow
    local port=$((20000 + $$ % 10000))
    cat >"$work/prometheus.yaml" <<CONFIG
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [$PWD/conf/monitoring/egret-alerts.yaml]
scrape_configs: [{ job_name: egret, static_configs: [{ targets: ["$admin"] }] }]
CONFIG
    promtool check config "$work/prometheus.yaml" >/dev/null
    prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$port" \
        >"$work/prometheus.log" 2>&1 &
    children+=("$!")
    ask() { promtool query instant "http://127.0.0.1:$port" "$1"; }
    counts() { ask "$1" | grep -q "=> $2"; }
    until_ok counts 'up{job="egret"}' 1
    until_ok counts 'sum(egret_flows_total)' 1
    until_ok counts 'egret_build_info' 1
    found=$(curl -sS "http://127.0.0.1:$port/api/v1/targets" | grep -o '"lastError":"[^"]*"')
    [ "$found" = '"lastError":""' ] || fail "the scrape says $found"
    rules() { curl -sS "http://127.0.0.1:$port/api/v1/rules"; }
    evaluated() { rules | grep -q '"health":"ok"' && ! rules | grep -q '"health":"unknown"'; }
    until_ok evaluated
    if rules | grep -q '"health":"err"'; then fail "a rule cannot be evaluated: $(rules)"; fi
    say "monitoring: rules are sound, Prometheus scrapes and evaluates them"
}

for what in "${@:-image deb monitoring}"; do
    for one in $what; do
        case $one in
            image | deb | monitoring) "$one" ;;
            *) echo "usage: conf/package/prove.sh [image|deb|monitoring]..." >&2; exit 64 ;;
        esac
    done
done
