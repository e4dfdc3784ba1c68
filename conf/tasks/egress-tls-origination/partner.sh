#!/bin/sh
# An authority, a server on 127.0.0.1:8443 that wants a certificate of it, and one for the client, under /var/tmp/egret-partner.
set -eu
umask 077
mkdir -p /var/tmp/egret-partner/client && cd /var/tmp/egret-partner
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=authority of the partner' -keyout ca.key -out ca.crt 2>/dev/null
issue() { # NAME SERIAL: a certificate for this name
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'subjectAltName=DNS:%s\n' "$1" >"$1.ext"
    openssl x509 -req -days 30 -CA ca.crt -CAkey ca.key -set_serial "$2" -in "$1.csr" -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
issue partner.example 1
issue client.example 2
cp client.example.key client/tls.key && cp client.example.crt client/tls.crt && cp ca.crt client/ca.crt
exec openssl s_server -accept 127.0.0.1:8443 -cert partner.example.crt -key partner.example.key -CAfile ca.crt \
    -Verify 1 -verify_return_error -www -quiet
