FROM python:3.13-slim AS build
WORKDIR /build
RUN pip install --no-cache-dir uv && uv venv /venv
COPY requirements-runtime.lock ./
RUN uv pip sync --python /venv/bin/python --require-hashes requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY src src
RUN uv pip install --python /venv/bin/python --no-deps .

FROM python:3.13-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 tollkeeper \
    && install --directory --owner tollkeeper /data
COPY --from=build /venv /venv
COPY scripts /app/scripts
USER tollkeeper
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOLLKEEPER_HOST=0.0.0.0 \
    TOLLKEEPER_DATABASE_URL=sqlite:////data/tollkeeper.db
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD \
    ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('TOLLKEEPER_PORT') or os.environ.get('PORT') or 8000}/health\", timeout=2)"]
CMD ["sh", "-c", "tollkeeper migrate && exec tollkeeper serve --first-run"]
