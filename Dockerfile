# Two images: `serve` (the default; no torch) and `train`.
#
#   docker build -t rankserve .                                    on a CPU
#   docker build -t rankserve:cuda --build-arg EXTRAS='[cuda]' .   on a GPU: run it with --gpus all
#   docker build -t ranktrain --target train .
#
# It starts a worker for each core that the container may use (docker run --cpus), as far as its memory goes.
# pip takes torch from where it is told to look: PIP_EXTRA_INDEX_URL as a build argument names an index of CPU builds.

FROM python:3.11-slim AS python
ENV PATH=/opt/rankserve/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_EXTRA_INDEX_URL=
RUN python -m venv /opt/rankserve \
 && useradd --uid 10001 --create-home rankserve \
 && install --directory --owner rankserve /models
WORKDIR /src
# Without a package beside it this installs the dependencies alone: a layer that outlives changes of the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM python AS train
RUN pip install -c constraints.txt '.[train,parquet]'
COPY service service
COPY training training
RUN pip install --no-deps --force-reinstall .
COPY configs /configs
WORKDIR /
USER rankserve
VOLUME /models
ENTRYPOINT ["ranktrain"]
CMD ["--help"]

FROM python AS serve
ARG EXTRAS=
RUN pip install -c constraints.txt ".${EXTRAS}"
COPY service service
RUN pip install --no-deps --force-reinstall .
WORKDIR /
USER rankserve
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["rankserve"]
CMD ["serve", "--models", "/models", "--host", "0.0.0.0", "--port", "8000"]
