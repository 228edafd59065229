# The orchestrator, without llama.cpp: docker build --file deploy/orchestrator.Dockerfile .
#
# The base may be any image with Python 3.11 or newer, or of Debian or Ubuntu; what it lacks is installed.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=python:3.11-slim-bookworm

FROM ${BUILD_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
WORKDIR /src
COPY deploy deploy
COPY pyproject.toml constraints.txt ./
RUN sh deploy/install.sh dependencies
COPY . .
RUN sh deploy/install.sh project

FROM ${BASE_IMAGE}
RUN command -v python3 || { apt-get update && apt-get install --yes --no-install-recommends python3; }
COPY --from=build /opt/outrider /opt/outrider
ENV PATH=/opt/outrider/bin:$PATH \
    OUTRIDER_ORCHESTRATOR_HOST=0.0.0.0 \
    OUTRIDER_HEALTHCHECK_ADDRESS=127.0.0.1:50050
USER 10001:10001
EXPOSE 50050
HEALTHCHECK --interval=10s --timeout=10s --start-period=30m CMD ["python", "-P", "-m", "services.frame.healthcheck"]
ENTRYPOINT ["outrider-orchestrator"]
