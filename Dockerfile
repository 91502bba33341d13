# Two images from one file, by argument or by target (--target sidecar, --target app):
#
#   docker build --build-arg VARIANT=sidecar -t tailhop .     tailhop and tailscaled, nothing else
#   docker build -t example-app .                             the Flask example on top
#
# Both run as 65532 with a read-only root; tailscaled wants a folder that it may write: /tmp.
# Bases are arguments, so that they can be replaced, or pinned by digest. No BuildKit is needed.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm
ARG VARIANT=app
ARG TAILSCALE_IMAGE=docker.io/tailscale/tailscale:v1.102.3

FROM ${TAILSCALE_IMAGE} AS tailscale

FROM ${RUST_IMAGE} AS build
ARG REVISION
# The allocator is built by make.
RUN command -v make || (apt-get update && apt-get install -y --no-install-recommends make)
WORKDIR /src
COPY . .
RUN TAILHOP_COMMIT="${REVISION}" cargo build --release --locked --bin tailhop
# The runtime: the binary and the few shared objects that it names, under one folder. Not static:
# glibc looks names up by objects that it loads.
RUN mkdir -p /out/usr/local/bin /out/etc/tailhop /out/etc/ssl/certs /out/usr/share/doc/tailhop /out/tmp \
    && cp target/release/tailhop /out/usr/local/bin/ \
    && ldd target/release/tailhop | grep -o '/[^ ]*' | xargs cp -L --parents -t /out \
    && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
    && cp config/routing.toml /out/etc/tailhop/ \
    && cp LICENSE-MIT LICENSE-APACHE /out/usr/share/doc/tailhop/ \
    && echo 'hosts: files dns' > /out/etc/nsswitch.conf \
    && echo 'tailhop:x:65532:65532::/tmp:/sbin/nologin' > /out/etc/passwd \
    && echo 'tailhop:x:65532:' > /out/etc/group \
    && chmod 1777 /out/tmp
# What is in the binary, as CycloneDX.
RUN cargo tree --locked --edges normal --prefix none --no-dedupe --format '{p}|{l}' \
    | sort -u \
    | sed -nE 's#^([^ ]+) v([^ |]+)[^|]*\|(.*)$#{"type":"library","name":"\1","version":"\2","purl":"pkg:cargo/\1@\2","licenses":[{"expression":"\3"}]}#p' \
    | sed 's#/Apache-2.0#\ OR Apache-2.0#; s#Apache-2.0/MIT#Apache-2.0 OR MIT#' \
    | paste -sd, \
    | sed 's/^/{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[/; s/$/]}/' \
    > /out/usr/share/doc/tailhop/sbom.cdx.json

FROM scratch AS sidecar
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tailhop" \
      org.opencontainers.image.description="One local address for the models and vectors on your tailnet." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=tailscale /usr/local/bin/tailscaled /usr/local/bin/tailscaled
COPY --from=build /out /
ENV PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp
WORKDIR /tmp
USER 65532:65532
STOPSIGNAL SIGTERM
# No shell and no curl in here: tailhop asks itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/tailhop", "health"]
ENTRYPOINT ["/usr/local/bin/tailhop"]
CMD ["run"]

FROM ${PYTHON_IMAGE} AS app
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tailhop example app" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /app
COPY sidecar/example-app/requirements.txt ./
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir -r requirements.txt
COPY --from=tailscale /usr/local/bin/tailscaled /usr/local/bin/tailscaled
COPY --from=build /out/usr/local/bin/tailhop /usr/local/bin/tailhop
COPY --from=build /out/usr/share/doc/tailhop /usr/share/doc/tailhop
COPY config/routing.toml /etc/tailhop/routing.toml
COPY sidecar/example-app/ ./
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usr/local/bin/tailhop", "health"]
ENTRYPOINT ["/usr/local/bin/tailhop"]
CMD ["run", "--", "gunicorn", "app:create_app()"]

FROM ${VARIANT}
