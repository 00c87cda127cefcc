# syntax=docker/dockerfile:1
# Workers and reducers. Weights are not in it: mount their directory at /models.
#
#   docker build -f ops/docker/worker.Dockerfile -t callscribe-worker:0.1.0 .
#   docker build -f ops/docker/worker.Dockerfile -t callscribe-worker:0.1.0-cpu \
#       --build-arg TORCH=cpu --build-arg TORCH_INDEX=URL .
#
# TORCH says which build of PyTorch is wanted, cuda or cpu; TORCH_INDEX is a package index that has
# it, where yours has another. A cuda image is some 7 GB, a cpu image some 2 GB.

FROM python:3.11.14-slim-bookworm AS build
ARG TORCH=cuda
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/callscribe/venv
ENV PATH=/opt/callscribe/venv/bin:$PATH
# What callscribe needs, before callscribe: a change of code installs nothing anew.
COPY setup.cfg pyproject.toml ./
COPY ops/constraints.txt ops/constraints.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$TORCH" in \
      cuda) extras=worker,itn,s3,cuda ;; \
      cpu) extras=worker,itn,s3 ;; \
      *) echo "TORCH is cuda or cpu, not $TORCH" >&2; exit 2 ;; \
    esac \
    && pip install --constraint ops/constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$extras]"
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
# The root may be read-only: what libraries write goes to /tmp. Of the driver, CUDA and nvidia-smi are
# wanted. Which GPUs, compose and Kubernetes say: NVIDIA_VISIBLE_DEVICES here would open all of them
# to reducers, too.
ENV PATH=/opt/callscribe/venv/bin:$PATH \
    CALLSCRIBE_MODELS=/models \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# SIGTERM reaches Python itself: the segment is ended or handed back. Give it 90 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "workers"]
CMD ["segments"]
