# docker build -t gradserve . && docker run --rm -p 50051:50051 -p 127.0.0.1:9464:9464 gradserve
# On a GPU host add --gpus all: the torch wheel brings its CUDA libraries, the host the driver.
# With a root that cannot be written to: --read-only --tmpfs /tmp --tmpfs /home/gradserve/.cache:uid=10001,gid=10001
# (sockets and counters; weights that are downloaded, and indexes).

# The digest is that of the tag, for all architectures. To take a newer base, write its tag and the digest that
# `docker buildx imagetools inspect python:TAG` prints, here or with --build-arg BASE=python:TAG@sha256:DIGEST.
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE} AS build
# An index of torch's wheels for CPUs, as PyTorch's page of installation names it. Without CUDA the image is far smaller.
ARG CPU_WHEELS=
WORKDIR /src
RUN python -m venv /opt/gradserve
ENV PATH=/opt/gradserve/bin:$PATH
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
# Nothing but these two comes from that index; what they need comes with the rest.
RUN test -z "$CPU_WHEELS" || \
    pip install --no-cache-dir --no-deps --index-url "$CPU_WHEELS" -c constraints.txt torch torchvision
COPY client client
COPY server server
RUN pip install --no-cache-dir -c constraints.txt '.[server,otel]'

FROM ${BASE}
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="gradserve" \
      org.opencontainers.image.description="A gRPC microservice that serves the gradients of vision models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 gradserve && useradd --create-home --uid 10001 --gid 10001 gradserve
COPY --from=build /opt/gradserve /opt/gradserve
ENV PATH=/opt/gradserve/bin:$PATH \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes knows that it is not root.
USER 10001:10001
WORKDIR /home/gradserve
EXPOSE 50051 9464
# By the metrics port, which speaks plain HTTP whatever TLS and tokens the gRPC port asks for.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["gradserve", "serve", "--host", "0.0.0.0", "--metrics-host", "0.0.0.0"]
