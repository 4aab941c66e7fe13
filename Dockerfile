# The commands of goodnet, for one machine or as the server and workers of compose.yaml:
#   docker build -t goodnet .
#   docker run --rm -v "$PWD/artifacts:/artifacts" goodnet repair
FROM python:3.12-slim-bookworm

# Who runs this may write to artifacts and to Prefect's folder, and not to the code.
RUN useradd --create-home --uid 10001 goodnet \
    && install --directory --owner goodnet /artifacts
WORKDIR /goodnet

# As `make` installs it: the lock is complete, so nothing is left for pip to resolve.
COPY requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE prefect.yaml ./
COPY docs/automations.yaml docs/
COPY goodnet goodnet
COPY tasks tasks
COPY flows flows
RUN .venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation -e .

ENV PATH=/goodnet/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GOODNET_HOME=/goodnet \
    GOODNET_ARTIFACTS=/artifacts
USER goodnet
VOLUME /artifacts
ENTRYPOINT ["goodnet"]
CMD ["--help"]
