# One image for all commands of eco2: gateway, worker, serve, demo, and the commands for operators.
# It writes nothing at run time, so a read-only root file system is enough, without any volume.
#
#   docker build .                                    OpenAI, or another service with its API
#   docker build --build-arg REQUIREMENTS=local .     with the local model: needs no key
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS=base
WORKDIR /src
COPY requirements/build.txt requirements/${REQUIREMENTS}.txt requirements/
# The shipped environment has no pip; another pip fills it.
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/eco2 \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/eco2/bin/python3 install --no-cache-dir --require-hashes --no-deps \
        -r "requirements/${REQUIREMENTS}.txt"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY eco2 eco2
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/build/bin/pip --python /opt/eco2/bin/python3 install --no-cache-dir --no-deps --no-index /tmp/wheel/*.whl
# The local model is converted here, since the container has no writable place for the result.
RUN mkdir /opt/eco2/cache \
    && if [ "${REQUIREMENTS}" = local ]; then \
        XDG_CACHE_HOME=/opt/eco2/cache /opt/eco2/bin/python3 -c \
            'from eco2.llm.classifier import open_classifier; open_classifier()' \
            && chmod -R a+rX /opt/eco2/cache; \
    fi

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0.dev0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Eco²" \
    org.opencontainers.image.description="A native asyncio task queue for LLM pipelines on RabbitMQ" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/eco2/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUTF8=1 \
    XDG_CACHE_HOME=/opt/eco2/cache \
    ECO2_HOST=0.0.0.0 \
    ECO2_PROBES_HOST=0.0.0.0 \
    ECO2_PROBES_PORT=8001 \
    ECO2_WORKER_HOST=0.0.0.0
COPY --from=build /opt/eco2 /opt/eco2
COPY deploy/probe /opt/eco2/bin/probe
# Modules mounted here can be named in ECO2_PIPELINES.
WORKDIR /pipelines
USER 65532:65532
EXPOSE 8000 8001
# For gateway and worker: the port of health and metrics. Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["probe"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["eco2"]
CMD ["--help"]
