# docker build -t gradserve . && docker run --rm -p 50051:50051 -p 9464:9464 gradserve
# On a GPU host add --gpus all: the torch wheel brings its CUDA libraries, the host the driver.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/gradserve
ENV PATH=/opt/gradserve/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY server server
RUN pip install --no-cache-dir -c constraints.txt '.[server,otel]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 gradserve
COPY --from=build /opt/gradserve /opt/gradserve
ENV PATH=/opt/gradserve/bin:$PATH \
    PYTHONUNBUFFERED=1
USER gradserve
WORKDIR /home/gradserve
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["gradserve", "health", "--server", "127.0.0.1:50051"]
ENTRYPOINT ["gradserve", "serve", "--host", "0.0.0.0"]
