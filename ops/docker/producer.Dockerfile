# syntax=docker/dockerfile:1
# The command line: submits, exports, migrates. Flower runs in it, too. No torch, no model.
#
#   docker build -f ops/docker/producer.Dockerfile -t callscribe-producer:0.1.0 .
#
# With --build-arg EXTRAS=flower,s3,parquet it exports Parquet, too, and is 170 MB larger.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/callscribe/venv
ENV PATH=/opt/callscribe/venv/bin:$PATH
# What callscribe needs, before callscribe: a change of code installs nothing anew.
ARG EXTRAS=flower,s3
COPY setup.cfg pyproject.toml ./
COPY ops/constraints.txt ops/constraints.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint ops/constraints.txt ".[$EXTRAS]"
COPY README.md ./
COPY schema schema
COPY producer producer
COPY workers workers
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .

FROM python:3.11.14-slim-bookworm
# A number, so that Kubernetes can tell that it is not root.
RUN useradd --system --uid 10001 --user-group --no-create-home callscribe
COPY --from=build /opt/callscribe/venv /opt/callscribe/venv
COPY ops/flower /opt/callscribe/flower
# Where Flower keeps what it has seen, if a volume is mounted there.
RUN install --directory --owner=callscribe --group=callscribe /state
# The root may be read-only: what must be written goes to /tmp, or to a volume.
ENV PATH=/opt/callscribe/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["producer"]
CMD ["--help"]
