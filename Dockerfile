# The server and the libraries it needs, and no more.
#
#   docker build -t sconce:cpu .
#   docker build -t sconce:cuda --build-arg SCONCE_CUDA=ON .
#
# A pip.conf (for a mirror, a proxy) can be given to the build as the secret "pip.conf".

FROM debian:bookworm-slim AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG SCONCE_CUDA=OFF
ENV SCONCE_CACHE=/var/cache/sconce
WORKDIR /src
# Packages and LibTorch first: they change less often than the sources.
COPY scripts scripts
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    scripts/setup && ln -s "$SCONCE_CACHE"/torch-* /opt/torch
COPY . .
RUN cmake --preset release -DSCONCE_TORCH_DIR=/opt/torch -DSCONCE_CUDA="$SCONCE_CUDA" \
      -DSCONCE_BUILD_TESTS=OFF -DSCONCE_BUILD_BENCH=OFF && \
    cmake --build --preset release --target sconce -j "$(nproc)" && \
    cmake --install build/release --prefix /opt/sconce
# Of the wheels' libraries, those the server is linked with; for CUDA all, since they open each other
# at run time, but the compiler's.
RUN mkdir -p /opt/sconce/lib && \
    { ldd build/release/sconce | awk '$3 ~ "^/opt/torch/" { print $3 }'; \
      if [ "$SCONCE_CUDA" = ON ]; then \
        printf '%s\n' /opt/torch/torch/lib/*cuda*.so /opt/torch/torch/lib/*nv*.so /opt/torch/nvidia/*/lib/*.so*; \
      fi; } | grep -v /libnvvm | \
    xargs realpath -s | sort -u | xargs cp -L -t /opt/sconce/lib

FROM debian:bookworm-slim
# Debian's own stable versions, of the release the build stage links with.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
      libabsl20220623 \
      libcpp-httplib0.11 \
      libfmt9 \
      libgrpc++1.51 \
      libprometheus-cpp-core1.0 \
      libprotobuf32 \
      libspdlog1.10 \
      libssl3 \
      libxxhash0 && \
    rm -rf /var/lib/apt/lists/* && \
    mkdir /models
COPY --from=build /opt/sconce /opt/sconce
# Fails the build if a library is missing.
RUN ["/opt/sconce/bin/sconce", "--help"]
# What the NVIDIA container runtime is to mount of the driver, where there is one.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 8001 8000
ENTRYPOINT ["/opt/sconce/bin/sconce"]
CMD ["serve", "--model-repository", "/models"]
