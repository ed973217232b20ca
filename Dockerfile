# One image for every process of Plantain; docker-compose.yml says which command each runs. docs/deployment.md explains.

FROM python:3.12-slim-bookworm AS packages
# Also a setting: google-generativeai needs packages that the image goes without otherwise.
ARG GEMINI_SDK=google-genai
WORKDIR /build
COPY requirements/ requirements/
# Without pip in it: nothing is to be installed later. The cache stays outside the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /venv \
    && case "$GEMINI_SDK" in \
         google-genai) list=base ;; \
         google-generativeai) list=legacy-gemini ;; \
         *) echo "GEMINI_SDK is google-genai or google-generativeai, not '$GEMINI_SDK'" >&2; exit 1 ;; \
       esac \
    && python -m pip --python /venv/bin/python install --no-deps --no-compile --only-binary :all: \
         --require-hashes --disable-pip-version-check --requirement "requirements/$list.txt"
# Nobody needs these: debugging symbols, packages' own tests, type stubs, and sources of what is compiled.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null \
    && find /venv/lib -type f -name '*.so*' -exec strip --strip-unneeded {} + \
    && find /venv/lib -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && find /venv/lib -type f \( -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) -delete \
    # A read-only container cannot write bytecode, so it is made here; unchecked, as no source ever changes.
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /venv/lib


FROM python:3.12-slim-bookworm
# The settings' place is a folder that a volume covers: see scripts/container/setup.py.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin plantain \
    && install -d -o plantain -g plantain /run/plantain /run/plantain/app /run/plantain/postgres /run/plantain/redis \
    && install -d /app \
    && ln -s /run/plantain/app/settings.env /app/.env \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip
COPY --from=packages /venv /venv
COPY scripts/container/healthcheck /usr/local/bin/
WORKDIR /app
COPY pyproject.toml ./
COPY api/ api/
COPY worker/ worker/
COPY shared/ shared/
COPY migrations/ migrations/
COPY scripts/ scripts/
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s --retries=3 CMD ["healthcheck"]
CMD ["python", "-m", "api"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Plantain" \
      org.opencontainers.image.description="A self-hosted, durable queue for generation jobs in front of Gemini and Nano Banana" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim-bookworm" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
