# docker build -t keeper .                        the daemon
# docker build -t keeper-demo --target demo .     the daemon with a local chain on board: needs no network to run

# --- the wheel, built by the locked tools
FROM python:3.11.14-slim-trixie AS wheel
WORKDIR /src
COPY requirements-dev.lock ./
RUN ["pip", "install", "--no-cache-dir", "--require-hashes", "--only-binary=:all:", "-r", "requirements-dev.lock"]
COPY pyproject.toml README.md ./
COPY config config
COPY keeper keeper
RUN ["python", "-m", "hatchling", "build", "-t", "wheel", "-d", "/wheel"]

# --- the environment, from the lock alone
FROM python:3.11.14-slim-trixie AS environment
WORKDIR /src
RUN ["python", "-m", "venv", "--without-pip", "/opt/keeper"]
COPY requirements.lock ./
RUN ["pip", "--python", "/opt/keeper/bin/python", "install", "--no-cache-dir", "--require-hashes", "--only-binary=:all:", "-r", "requirements.lock"]
COPY --from=wheel /wheel /wheel
RUN pip --python /opt/keeper/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl

# --- the daemon: everything it may write is under /var/lib/keeper, so the root file system can be read-only
FROM python:3.11.14-slim-trixie AS daemon
ENV PATH="/opt/keeper/bin:$PATH" PYTHONDONTWRITEBYTECODE="1" PYTHONUNBUFFERED="1"
ENV HOME="/var/lib/keeper" KEEPER_HTTP_HOST="0.0.0.0"
EXPOSE 9464
COPY --from=environment /opt/keeper /opt/keeper
RUN ["install", "--directory", "--owner=65532", "--group=65532", "/var/lib/keeper"]
WORKDIR /var/lib/keeper
VOLUME ["/var/lib/keeper"]
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "keeper.healthcheck"]
ENTRYPOINT ["keeper"]
CMD ["run"]

# --- the node and the contracts of the demo
FROM environment AS packages
ENV HOME="/opt/demo"
RUN ["apt-get", "update"]
RUN ["apt-get", "install", "--yes", "--no-install-recommends", "npm"]
RUN ["/opt/keeper/bin/python", "-c", "from keeper.devnet.packages import default_cache_dir, ensure_packages; ensure_packages(default_cache_dir(), print, sets=('core', 'uniswap'))"]

# --- the demo: it keeps the chain that it builds beside its packages
FROM daemon AS demo
ENV HOME="/opt/demo"
COPY --from=packages --chown=65532:65532 /opt/demo /opt/demo
HEALTHCHECK NONE
CMD ["demo"]

# --- what `docker build` makes when no target is named
FROM daemon
