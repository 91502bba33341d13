#!/usr/bin/env bash
# Starts tailscaled, tailhop and the app (this script's arguments) in one container.
# Ends when the app ends, with its code; or with 1 when one of the other two is gone.
set -euo pipefail

state=${TAILSCALE_STATE:-/tmp/tailscale}
export TAILSCALED_SOCKET=$state/tailscaled.sock        # routing.toml: tailnet.socket = "${TAILSCALED_SOCKET}"
mkdir -p "$state"

# PORT is the app's; tailscaled would take it for its own UDP port.
env -u PORT tailscaled --tun=userspace-networking --port=0 \
    --statedir="$state" --socket="$TAILSCALED_SOCKET" &
tailscaled=$!
tailhop run &
tailhop=$!

# Every variable has a default: an emergency deployment may wipe all but ACTIVE_BACKEND.
# In the background: `up` waits until the node is admitted, and the app need not wait for that.
timeout 120 tailscale --socket="$TAILSCALED_SOCKET" up --shields-up \
    --auth-key="file:${TS_AUTHKEY_FILE:-/run/secrets/tailscale/authkey}" \
    --hostname="${TS_HOSTNAME:-tailhop}" &

until tailhop health --ready >/dev/null 2>&1; do
    kill -0 "$tailhop" || exit 1
    sleep 0.1
done

"$@" &
app=$!

# First the app ends: what it has begun goes through the other two.
told=no
trap 'told=yes; kill -TERM "$app" 2>/dev/null || true' TERM INT
wait -n "$tailscaled" "$tailhop" "$app" || true
lost=no
if [ "$told" = no ] && kill -0 "$app" 2>/dev/null; then
    lost=yes
    kill -TERM "$app"
fi
code=0
while kill -0 "$app" 2>/dev/null; do     # a signal ends `wait` early
    code=0
    wait "$app" || code=$?
done
if [ "$code" = 0 ]; then wait "$app" || code=$?; fi
kill -TERM "$tailhop" 2>/dev/null && wait "$tailhop" || true
kill -TERM "$tailscaled" 2>/dev/null && wait "$tailscaled" || true
[ "$lost" = no ] || exit 1
exit "$code"
