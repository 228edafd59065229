# The target service: docker build --file deploy/target.Dockerfile .
#
# The base may be any image with Python 3.11 or newer, or of Debian or Ubuntu; what it lacks is installed.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=python:3.11-slim-bookworm

# Word for word the first stage of draft.Dockerfile, so that llama.cpp is built once for both.
FROM ${BUILD_IMAGE} AS build
ARG CMAKE_ARGS
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
WORKDIR /src
COPY deploy deploy
COPY pyproject.toml constraints.txt ./
RUN sh deploy/install.sh dependencies engine
COPY . .
RUN sh deploy/install.sh project

FROM ${BASE_IMAGE}
RUN command -v python3 || { apt-get update && apt-get install --yes --no-install-recommends python3; }
RUN install -d -o 10001 -g 10001 /cache
COPY --from=build /opt/outrider /opt/outrider
ENV PATH=/opt/outrider/bin:$PATH \
    TMPDIR=/cache \
    XDG_CACHE_HOME=/cache \
    OUTRIDER_TARGET_HOST=0.0.0.0 \
    OUTRIDER_TARGET_MODEL=/models/target.gguf \
    OUTRIDER_HEALTHCHECK_ADDRESS=127.0.0.1:50052
USER 10001:10001
EXPOSE 50052
HEALTHCHECK --interval=10s --timeout=10s --start-period=30m CMD ["python", "-P", "-m", "services.frame.healthcheck"]
ENTRYPOINT ["outrider-target"]
