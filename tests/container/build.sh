#!/usr/bin/env bash
# Builds the images of the Dockerfile without a daemon, and keeps what took long in a cache:
#
#   tests/container/build.sh [sidecar | app]      default: sidecar
#
# buildah with chroot isolation and the vfs driver; Debian's own packages stand in for the official
# base images, under the names that the Dockerfile uses, and tests/rig/build.sh for tailscaled. The
# last line on standard output is the name of the image; everything else goes to standard error.
# Needs root, buildah and debootstrap, and a Rust toolchain, which is mounted.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${TAILHOP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tailhop}/container
target=${1:-sidecar}

buildah_() { buildah --root "$cache/storage" --runroot "$cache/run" --storage-driver vfs "$@"; }
has() { buildah_ images --quiet "$1" >/dev/null 2>&1; }
base_of() { sed -n "s/^ARG $1=//p" "$root/Dockerfile"; }

main() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    {
        debian
        rust "$(base_of RUST_IMAGE)"
        tailscale "$(base_of TAILSCALE_IMAGE)"
        [[ $target != app ]] || python "$(base_of PYTHON_IMAGE)"
        image
    } >&2
    echo "localhost/tailhop-$target:test"
}

debian() {
    has localhost/debian:bookworm-slim && return
    local work=$cache/rootfs container
    [[ -e $work.complete ]] || { rm -rf "$work"; debootstrap --variant=minbase bookworm "$work"; touch "$work.complete"; }
    rm -rf "$work"/var/lib/apt/lists/* "$work"/var/cache/apt/archives/*.deb "$work"/usr/share/{doc,man,locale,info}
    container=$(buildah_ from scratch)
    buildah_ add "$container" "$work" /
    buildah_ config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah_ commit "$container" localhost/debian:bookworm-slim
    buildah_ rm "$container"
}

# on_debian NAME LINE ..: an image of this name, made of Debian and these lines.
on_debian() {
    local name=$1 context
    shift
    has "$name" && return
    context=$(mktemp -d)
    printf '%s\n' 'FROM localhost/debian:bookworm-slim' "$@" >"$context/Dockerfile"
    buildah_ bud --isolation chroot --pull-never -t "$name" "$context"
    rm -rf "$context"
}

rust() {
    on_debian "$1" 'RUN apt-get update && apt-get install -y --no-install-recommends gcc make libc6-dev ca-certificates && rm -rf /var/lib/apt/lists/*' \
        'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo'
}

python() {
    on_debian "$1" 'RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*'
}

# Nothing of the official image but the names of its binaries.
tailscale() {
    has "$1" && return
    local net container
    net=$("$root/tests/rig/build.sh" net | grep -o '/.*net-[0-9a-f]*' | tail -n 1)
    container=$(buildah_ from scratch)
    buildah_ copy "$container" "$net/tailscaled" "$net/tailscale" /usr/local/bin/
    buildah_ commit "$container" "$1"
    buildah_ rm "$container"
}

image() {
    local toolchain mounts=() file
    toolchain=$(readlink -f "$(rustc --print sysroot)")
    mkdir -p "$cache/target"
    # What a build elsewhere fetches: crates, and certificates and settings of this machine.
    mounts=(-v "$toolchain:/usr/local/rust:ro" -v "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry" -v "$cache/target:/src/target")
    for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
        [[ ! -e $file || $target != app ]] || mounts+=(-v "$file:$file:ro")
    done
    buildah_ bud --isolation chroot --pull-never --format docker --build-arg "VARIANT=$target" "${mounts[@]}" \
        --build-arg "REVISION=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)" \
        -t "localhost/tailhop-$target:test" "$root"
    buildah_ rmi --prune --force || true
}

main
