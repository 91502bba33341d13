#!/usr/bin/env bash
# Builds what the rig runs, once, into a cache outside the tree:
#
#   net      tailscaled, tailscale and our control server, from tests/rig/control
#   headscale  a control server that honours keys and logout
#   python   a virtual environment with tests/clients/requirements.txt
#   ollama   a real Ollama, CPU only, without audio
#   model    the models `tiny` and `slow`, as an OLLAMA_MODELS folder
#   browser  what drives Chromium and judges a page, from tests/browser/package-lock.json
#
#   tests/rig/build.sh [PART ..]      no PART: all of them
#
# One line a part on standard output, "cache used: PART FOLDER" or "built: PART FOLDER in N s";
# what the tools say goes to standard error. The key of a folder is the hash of everything pinned
# that went into it, so a changed pin builds anew and an old branch still finds its own.
# Needs Go 1.26.6, Python 3.11 and Node.js 20; on Debian, as root, it installs the few packages that miss.
set -euo pipefail

readonly OLLAMA_VERSION=0.24.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=$here/../clients/requirements.txt
browser=$here/../browser
cache=${TAILHOP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tailhop}

main() {
    local parts=("$@") part
    ((${#parts[@]})) || parts=(net headscale python ollama model browser)
    mkdir -p "$cache"
    # Two test runs may start at once; the second one waits and finds everything built.
    exec 9>"$cache/lock"
    flock 9
    for part in "${parts[@]}"; do
        case $part in
        net | headscale | python | ollama | model | browser) provide "$part" ;;
        *) die "unknown part $part: net, headscale, python, ollama, model or browser" ;;
        esac
    done
}

# provide PART: its folder, from the cache or built now. The mark is written last, so that a build
# that was interrupted is not taken for a finished one.
provide() {
    local part=$1 folder started=$SECONDS
    folder=$(folder_of "$part")
    if [[ -e $folder/.complete ]]; then
        echo "cache used: $part $folder"
        return
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    "build_$part" "$folder" >&2
    touch "$folder/.complete"
    echo "built: $part $folder in $((SECONDS - started)) s"
}

folder_of() {
    echo "$cache/$1-$(inputs_of "$1" | sha256sum | cut -c1-16)"
}

# inputs_of PART: everything that decides what it becomes.
inputs_of() {
    case $1 in
    net) cat "$here"/control/{go.mod,go.sum,main.go,relay.go} && uname -m ;;
    headscale) cat "$here"/headscale/go.{mod,sum} && uname -m ;;
    python) cat "$requirements" && python3 --version && uname -m ;;
    ollama) echo "$OLLAMA_VERSION" && cat "$here/ollama-stub/miniaudio/miniaudio.h" && uname -m ;;
    model) inputs_of ollama && cat "$requirements" "$here/tiny_gguf.py" "$here/Modelfile" ;;
    browser) cat "$browser"/package{,-lock}.json ;;
    esac
}

build_net() {
    need ip iproute2 nft nftables
    need_go
    (cd "$here/control" && CGO_ENABLED=0 go build -mod=readonly -o "$1/" \
        tailscale.com/cmd/tailscaled tailscale.com/cmd/tailscale .)
}

build_headscale() {
    need_go
    (cd "$here/headscale" && CGO_ENABLED=0 go build -mod=readonly -o "$1/" \
        github.com/juanfont/headscale/cmd/headscale)
}

build_python() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || need /none python3-venv
    python3 -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
}

# The module carries the source of its CPU engine, but not the headers that its releases vendor:
# two come from Debian, miniaudio's is a stub of ours. From 0.30.0 on the Go binary cannot infer.
build_ollama() {
    need g++ g++ /usr/include/nlohmann/json.hpp nlohmann-json3-dev /usr/include/stb libstb-dev
    need_go
    CPLUS_INCLUDE_PATH=$here/ollama-stub CGO_ENABLED=1 GOBIN=$1 go install \
        -ldflags "-s -w -X github.com/ollama/ollama/version.Version=$OLLAMA_VERSION" \
        "github.com/ollama/ollama@v$OLLAMA_VERSION"
}

build_model() {
    local python ollama work address
    provide python
    provide ollama
    python=$(folder_of python)/bin/python
    ollama=$(folder_of ollama)/ollama
    work=$1/work
    mkdir "$work"
    cp "$here/Modelfile" "$work"
    sed 's/tiny/slow/' "$here/Modelfile" >"$work/Modelfile.slow"
    "$python" "$here/tiny_gguf.py" "$work/tiny.gguf"
    "$python" "$here/tiny_gguf.py" "$work/slow.gguf" slow

    HOME=$work OLLAMA_MODELS=$1/models OLLAMA_HOST=127.0.0.1:0 "$ollama" serve 2>"$work/log" &
    # Global, because the trap runs when this function is gone.
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    address=$(address_of_ollama "$work/log") || die "ollama did not start: $(tail -n 3 "$work/log")"
    (cd "$work" && HOME=$work OLLAMA_HOST=$address "$ollama" create tiny -f Modelfile)
    (cd "$work" && HOME=$work OLLAMA_HOST=$address "$ollama" create slow -f Modelfile.slow)
    kill "$server"
    wait "$server" || true
    trap - EXIT
    rm -rf "$work"
}

build_browser() {
    need node nodejs npm npm
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || die "Node.js is too old: 20 or newer"
    cp "$browser"/package{,-lock}.json "$1"
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund
}

# address_of_ollama LOG: the address it chose, once its log says so.
address_of_ollama() {
    local tries
    for ((tries = 0; tries < 150; tries++)); do
        grep -m 1 -oE 'Listening on [0-9.:]+' "$1" | cut -d' ' -f3 && return
        sleep 0.2
    done
    return 1
}

# need COMMAND_OR_FILE PACKAGE ..: installs the Debian packages of what is not there.
need() {
    local missing=()
    while (($#)); do
        command -v "$1" >/dev/null || [[ -e $1 ]] || missing+=("$2")
        shift 2
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) = 0 ]] && command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

need_go() {
    command -v go >/dev/null || die "Go is missing: 1.26.6 or newer"
    # The Go that is here, or none: a test must not download a compiler.
    export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOWORK=off
}

die() {
    echo "tests/rig/build.sh: $*" >&2
    exit 1
}

main "$@"
