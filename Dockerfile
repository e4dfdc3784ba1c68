# docker build -t egret . && docker run -v ./egret.yaml:/etc/egret/egret.yaml:ro -p 3128:3128 egret
#
# Inside a container a listener has to be bound to 0.0.0.0 to be reached, and then has to say who may use it (clients.from or basic).
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin egret && cp target/release/egret /egret

# libc and libgcc, roots of the system, a user that is not root; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /egret /usr/local/bin/egret
COPY conf/container.yaml /etc/egret/egret.yaml
ENV EGRET_CONFIG=/etc/egret/egret.yaml
EXPOSE 3128 15000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/egret"]
CMD ["run"]
