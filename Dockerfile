FROM python:3.13-slim-bookworm AS build
WORKDIR /build
RUN python -m venv --without-pip /venv
COPY requirements-build.lock requirements-runtime.lock ./
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements-runtime.lock
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock
COPY scripts/console.sh scripts/hatch_build.py scripts/
COPY requirements-node.lock ./
COPY console console
RUN sh scripts/console.sh python
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY src src
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels .
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps wheels/*.whl

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="Tollkeeper" \
    org.opencontainers.image.description="A secured multi-tenant AI API whose token quotas are exact." \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT"
# The certificates of providers are checked against the system's authorities.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
    && groupadd --gid 10001 tollkeeper \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tollkeeper \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /venv /venv
COPY scripts/adjust_quota.py /scripts/
# Only /data and /tmp are written to, so the root filesystem may be read-only. The default database, data/tollkeeper.db,
# is in /data; so are charges that a stop could not book, and the first passwords (in the home directory with PostgreSQL).
WORKDIR /
ENV PATH=/venv/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLKEEPER_HOST=0.0.0.0 \
    TOLLKEEPER_SPILL=/data
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD \
    ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('TOLLKEEPER_PORT') or os.environ.get('PORT') or 8000}/health/ready\", timeout=2)"]
CMD ["sh", "-c", "tollkeeper migrate && exec tollkeeper serve --first-run"]
