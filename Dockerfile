# syntax=docker/dockerfile:1
# Two images. `sidecar`: what stands beside a model server and writes the field log. `full`: every command.
#
#   docker build --target sidecar -t REGISTRY/fieldrepair-sidecar:0.1.0 .
#   docker build --target full    -t REGISTRY/fieldrepair-full:0.1.0 .
#
# Files may be written to /var/lib/fieldrepair and /tmp alone, which are volumes: run it with a read-only root.

ARG PYTHON_VERSION=3.11

# Not the slim one: it lacks `strip`.
FROM python:${PYTHON_VERSION}-bookworm AS builder
# Times in what is built. BuildKit takes the same argument for the times of the image's layers.
ARG SOURCE_DATE_EPOCH=0
ARG UV_VERSION=0.13.9
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_LINK_MODE=copy
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"
RUN python -m venv --without-pip /opt/fieldrepair
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY plugin plugin
COPY service service
COPY monitoring monitoring

FROM builder AS builder-sidecar
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/fieldrepair/bin/python -c constraints.txt ".[sidecar]"
# Tests, headers, sources, lists of components, debugging symbols, and of numpy the tools that build extensions. What is
# left must still load.
RUN find /opt/fieldrepair -type d \( -name tests -o -name sboms -o -path '*/numpy/core/include' \
         -o -path '*/numpy/distutils' -o -path '*/numpy/f2py' \) -prune -exec rm -rf {} + \
    && find /opt/fieldrepair -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.h' \
         -o -name '*.c' -o -name '*.a' \) -delete \
    && find /opt/fieldrepair -type f \( -path '*/uvloop/*.so' -o -path '*/httptools/*.so' \) \
         -exec strip --strip-unneeded {} + \
    && /opt/fieldrepair/bin/python -c "import fieldrepair_service.sidecar, fieldrepair_service.shipping, fieldrepair_service.mirror.mirror"
RUN python -m compileall -q --invalidation-mode checked-hash -x '/templates/' /opt/fieldrepair/lib

FROM builder AS builder-full
# Where torch and torchvision come from: the URL of a package index. Empty: from where everything comes. The builds there
# run on a CPU, and bring CUDA along; an index with CPU builds makes the image much smaller. Both always from one place.
ARG TORCH_INDEX_URL=""
RUN if [ -n "${TORCH_INDEX_URL}" ]; then \
      /opt/uv/bin/uv pip install --no-cache --python /opt/fieldrepair/bin/python -c constraints.txt \
        --index-url "${TORCH_INDEX_URL}" "torch>=2.6,<3" "torchvision>=0.21,<1"; \
    fi
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/fieldrepair/bin/python -c constraints.txt ".[all]"
# torch brings files for tests of newer Pythons, which this one cannot compile.
RUN python -m compileall -q --invalidation-mode checked-hash -x '/templates/|/torch/testing/_internal/' \
         /opt/fieldrepair/lib

FROM python:${PYTHON_VERSION}-slim-bookworm AS runtime
RUN groupadd --gid 10001 fieldrepair \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fieldrepair \
    && install -d -o 10001 -g 10001 /var/lib/fieldrepair /var/lib/fieldrepair/state
ENV PATH=/opt/fieldrepair/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1 \
    FIELDREPAIR_STATE_DIR=/var/lib/fieldrepair/state
WORKDIR /var/lib/fieldrepair
VOLUME ["/var/lib/fieldrepair", "/tmp"]
USER 10001:10001
ENTRYPOINT ["fieldrepair"]
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="fieldrepair" \
      org.opencontainers.image.description="Keeps a deployed PyTorch classifier good" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS full
COPY --from=builder-full /opt/fieldrepair /opt/fieldrepair
# For `fieldrepair up`, the command by default. Kubernetes looks at its own probes instead.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["fieldrepair", "ping", "http://127.0.0.1:8081/healthz"]
CMD ["--help"]

FROM runtime AS sidecar
COPY --from=builder-sidecar /opt/fieldrepair /opt/fieldrepair
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["fieldrepair", "ping", "http://127.0.0.1:8081/healthz"]
CMD ["sidecar"]
