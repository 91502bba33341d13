# tailhop alone, as a non-root user. It expects a tailscaled beside it: sidecar/README.md.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/tailhop /usr/local/bin/tailhop
COPY config/routing.toml /etc/tailhop/routing.toml
# No shell and no curl in here: tailhop asks itself.
HEALTHCHECK CMD ["/usr/local/bin/tailhop", "health"]
ENTRYPOINT ["/usr/local/bin/tailhop"]
CMD ["run"]
