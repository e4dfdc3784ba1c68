# docker build -t egret . && docker run --read-only -v ./egret.yaml:/etc/egret/egret.yaml:ro -p 3128:3128 egret
#
# Inside a container a listener has to be bound to 0.0.0.0 to be reached, and then has to say who may use it (clients.from or basic).
# The image is the binary, roots of trust and settings: no shell, no libc. conf/package/image.sh does these steps without a daemon.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# glibc linked in (static-pie): Egret resolves names itself, so that nothing of glibc is loaded while it runs.
ENV RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=pie"
RUN cargo build --release --locked --bin egret --target "$(uname -m)-unknown-linux-gnu" \
    && install -D -m 0755 "target/$(uname -m)-unknown-linux-gnu/release/egret" /image/egret \
    && install -D -m 0644 conf/container.yaml /image/etc/egret/egret.yaml \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && printf 'egret:x:65532:65532:egret:/:/egret\n' > /image/etc/passwd \
    && printf 'egret:x:65532:\n' > /image/etc/group

FROM scratch
LABEL org.opencontainers.image.title="egret" \
      org.opencontainers.image.description="An egress proxy and egress gateway driven by Istio's own resources" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
ENV EGRET_CONFIG=/etc/egret/egret.yaml
USER 65532:65532
EXPOSE 3128
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/egret", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/egret"]
CMD ["run"]
