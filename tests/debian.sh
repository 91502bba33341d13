#!/usr/bin/env bash
# Installs programs that tests compare with or ask, from Debian's packages, and only those that are
# not there. As root; starts nothing.
#
#     tests/debian.sh nginx:nginx-light promtool:prometheus      program:package ..
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
for pair in "$@"; do
    if program=$(command -v "${pair%%:*}"); then
        echo "${pair%%:*} is there: $program"
    else
        missing+=("${pair##*:}")
    fi
done
if [[ ${#missing[@]} == 0 ]]; then
    exit
fi
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "tests/debian.sh: please install ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# 101 forbids to start a service (invoke-rc.d): only the programs are wanted.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
