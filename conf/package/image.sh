#!/usr/bin/env bash
# Does the Dockerfile's steps without a daemon: its RUN builds the image's files, which are then listed. Needs the toolchain and Debian's
# ca-certificates; the base image's place is taken by this machine.
#
#   conf/package/image.sh FOLDER [BINARY]    BINARY: one that was built before, in place of the release build
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: conf/package/image.sh FOLDER [BINARY]}
binary=${2-}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# The commands of the first stage, with /image put into the folder.
steps=$(sed -n '/^RUN /,/[^\\]$/p' Dockerfile | sed 's/^RUN //' | sed "s,/image/,$folder/image/,g")
if [ -n "$binary" ]; then
    # Only the build and where it put its result are passed over.
    steps=$(printf '%s' "$steps" | sed -e 's,^cargo build .*\\$,true \\,' -e "s,install -D -m 0755 \"[^\"]*\",install -D -m 0755 \"$binary\",")
fi
eval "$(sed -n 's/^ENV RUSTFLAGS=/export RUSTFLAGS=/p' Dockerfile)"
bash -euo pipefail -c "$steps"

find "$folder/image" -type f -printf '%m %8s %P\n'
