#!/usr/bin/env bash
# Installs the nginx that the differential run compares with: Debian's, and only if there is none.
# As root; starts nothing.
set -euo pipefail

for program in /usr/sbin/nginx /usr/bin/nginx /usr/local/sbin/nginx; do
    if [[ -x $program ]]; then
        echo "nginx is there: $program"
        exit
    fi
done
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "tests/differential/install.sh: please install nginx" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# 101 forbids to start a service (invoke-rc.d): only the program is wanted.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends nginx-light
