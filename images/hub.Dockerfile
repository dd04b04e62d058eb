# The hub's image. Build it from the root of the repository:
#
#   docker build -f images/hub.Dockerfile --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" \
#     --build-arg REVISION="$(git rev-parse HEAD)" -t registry.example.com/switchyard-hub:0.1.0 .
#
# The base image is pinned by tag here. For a build that gives the same bytes next year pin it by digest:
#   --build-arg BUILD_IMAGE=rust:1.95-bookworm@sha256:...
# docs/install.md says what else a reproducible build needs.
ARG BUILD_IMAGE=rust:1.95-bookworm

FROM ${BUILD_IMAGE} AS build
# Time stamps in what is built are those of the commit.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} CARGO_INCREMENTAL=0
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY core core
COPY crd crd
COPY hub hub
COPY agent agent
COPY cli cli
COPY sandbox sandbox
COPY tests tests
COPY migrations migrations
COPY fuzz fuzz
COPY scripts/sbom.sh scripts/sbom.sh
# The folder of the build and that of cargo's packages are not written into the program.
RUN RUSTFLAGS="--remap-path-prefix=/source=. --remap-path-prefix=${CARGO_HOME}=cargo" \
    cargo build --release --locked --package switchyard-hub --bin switchyard-hub
# All that the program needs at run time and nothing else: the loader and the three libraries that it is linked to, the
# certificates of public authorities (AWS, Postgres), how to look up names, its user, and the list of what it is made of. No shell,
# no package manager.
RUN mkdir -p /image/usr/local/bin /image/etc/ssl/certs \
    && cp target/release/switchyard-hub /image/usr/local/bin/ \
    && ./scripts/sbom.sh /image/usr/share/sbom switchyard-hub \
    && ldd target/release/switchyard-hub | grep -o '/lib[^ ]*' | xargs -I '{}' cp --parents --dereference '{}' /image/ \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && echo 'switchyard:x:65532:65532:switchyard:/:/sbin/nologin' > /image/etc/passwd \
    && echo 'switchyard:x:65532:' > /image/etc/group \
    && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" '{}' +

FROM scratch AS run
ARG REVISION=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="switchyard-hub" \
      org.opencontainers.image.description="The control plane of Switchyard, which programs one AWS load balancer for several clusters." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      dev.switchyard.sbom="/usr/share/sbom/switchyard-hub.cdx.json"
COPY --from=build /image/ /
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 7400 7401
ENTRYPOINT ["/usr/local/bin/switchyard-hub"]
