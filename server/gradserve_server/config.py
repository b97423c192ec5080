"""The server's configuration: one tree of typed settings, from a TOML file and flags."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .logs import LogSettings
from .models.card import Precision
from .models.catalogue import EMBEDDED, ModelSpec, read_catalogue, read_tuning
from .models.faults import faults_of
from .models.flags import from_flag
from .models.tables import mistakes, read_toml

SERVER_PATHS = ("tls_certificate", "tls_key", "token_file", "tls_client_ca")
PATH_SETTINGS = (*(("server", name) for name in SERVER_PATHS), ("pool", "tuned"))
TRACES_BY_ENVIRONMENT = "otlp"  # The setting that leaves the collector to variables of the environment.


class StartError(Exception):
    """The service cannot start; the text says why."""


class Section(BaseModel):
    """A table of the configuration file, in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(Section):
    """`[server]`: where the service listens, and who may call it."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on: 0.0.0.0 or :: for all, unix:PATH for a socket"
    )
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address of the Prometheus port: 0.0.0.0 or :: for all"
    )
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus port; 0 takes a free one")
    tls_certificate: Path | None = Field(None, description="PEM file; with tls_key, serve TLS")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities; clients must have a certificate of one of them"
    )
    token_file: Path | None = Field(None, description="tokens that callers must send: one a line, or TOML with rights")
    max_connection_age: float = Field(
        300, gt=0, le=1_000_000, description="seconds after which clients are asked to reconnect"
    )
    max_connection_grace: float = Field(
        3600, gt=0, le=1_000_000, description="seconds after that until a connection is closed with what still runs"
    )
    max_connections: int = Field(1000, ge=1, le=1_000_000, description="connections of each front-end; more are closed")
    unread_seconds: float = Field(
        60, gt=0, le=1_000_000, description="after which a stream that is not read ends, and a reply counts as unread"
    )
    max_connection_idle: float = Field(
        900, gt=0, le=1_000_000, description="seconds after which a connection without requests is closed"
    )
    max_streams: int = Field(128, ge=1, le=1_000_000, description="requests under way on each connection")
    front_ends: int = Field(1, ge=1, le=64, description="processes that answer on the port")
    drain_seconds: float = Field(30, ge=0, description="how long running requests may take after SIGTERM")
    strict: bool = Field(False, description="do not start if any model cannot be loaded")
    model_management: bool = Field(
        False, description="without tokens: whether all callers may load, unload and reload models"
    )
    inference_protocol: bool = Field(False, description="whether clients of Triton and KServe are answered too")
    traces: str | None = Field(
        None, description="http://HOST:PORT of an OpenTelemetry collector, or otlp for that of the environment"
    )

    @property
    def socket(self) -> str | None:
        """The path of the unix socket that the service listens on instead of a port."""
        return self.host.removeprefix("unix:") if self.host.startswith("unix:") else None

    def address(self, port: int) -> str:
        """Where the service listens on that port, as clients write it: HOST:PORT, [IPV6]:PORT or unix:PATH."""
        return self.host if self.socket is not None else join_address(self.host, port)

    @model_validator(mode="after")
    def _check_tls_pair(self) -> "ServerSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; give both, or neither")
        if self.tls_client_ca and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs TLS: give tls_certificate and tls_key too")
        return self

    @model_validator(mode="after")
    def _check_traces(self) -> "ServerSettings":
        taken = rf"{TRACES_BY_ENVIRONMENT}|https?://[^\s/]+/?"
        if self.traces is not None and not re.fullmatch(taken, self.traces):
            raise ValueError(f"traces must be http://HOST:PORT, https://HOST:PORT or otlp, was {self.traces!r}")
        return self

    @model_validator(mode="after")
    def _check_front_ends(self) -> "ServerSettings":
        if self.front_ends > 1 and self.socket is not None:
            raise ValueError("a unix socket belongs to one process; leave front_ends at 1, or listen on a port")
        return self


def join_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


class PoolSettings(Section):
    """`[pool]`: the workers."""

    engine: Literal["local", "ray"] = Field("local", description="where workers run: here, or where Ray places them")
    listen: str | None = Field(
        None, pattern=r"^[^:/]+:\d+$", description="HOST:PORT, and the ports after it, where workers elsewhere connect"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes every GPU, or else the CPU")
    workers: int | None = Field(None, ge=1, le=256, description="processes; default: one per GPU, or one per core")
    workers_per_gpu: int = Field(1, ge=1, le=16, description="processes that share each GPU, where workers is not set")
    threads: int = Field(1, ge=1, le=256, description="compute threads of each worker on a CPU")
    rows: int | None = Field(None, ge=1, le=4096, description="rows per pass; default: by device and image size")
    tuned: Path | None = Field(None, description="file of `gradserve bench --tune`: rows and precisions by model")
    queue_seconds: float | None = Field(
        None, gt=0, description="longest wait of interactive requests; default: 2 s or 4 times a request's own work"
    )
    give_up_seconds: float = Field(600, gt=0, description="the server ends after so long without a ready worker")

    @model_validator(mode="after")
    def _check_engine(self) -> "PoolSettings":
        if self.engine == "ray" and (self.listen is None or self.workers is None or self.device == "auto"):
            raise ValueError(
                "engine ray needs listen (HOST:PORT that the nodes reach), workers, and device cpu or cuda"
            )
        if self.engine == "local" and self.listen is not None:
            raise ValueError("listen is for engine ray; workers of this machine need none")
        return self


class LimitSettings(Section):
    """`[limits]`: what a request may ask."""

    max_request_bytes: int = Field(32 << 20, ge=1 << 16, le=1 << 30, description="of a request's message")
    max_image_pixels: int = Field(50_000_000, ge=1, description="of an encoded picture, known from its header")
    max_request_pixels: int = Field(64_000_000, ge=1, description="of all pictures of a request")
    max_input_pixels: int = Field(1_048_576, ge=1, description="of a model's input, AS_IS")
    max_unread_bytes: int = Field(256 << 20, ge=1, description="of replies that a caller leaves unread")
    max_aspect: float = Field(20, ge=1, description="longer side / shorter side where the picture is cropped")
    max_directions: int = Field(64, ge=0, le=4096, description="that a caller may keep by name; 0: none")
    max_direction_bytes: int = Field(1 << 20, ge=0, le=1 << 30, description="of those, at 4 for each channel")
    direction_seconds: float = Field(86_400, gt=0, le=1e9, description="after which a direction that is kept expires")
    max_in_flight: int = Field(1024, ge=1, description="requests accepted and not yet answered")
    caller_share: float = Field(0.5, gt=0, le=1, description="share of these and of the work that one caller may hold")


class Settings(Section):
    """All settings. If no models are given, the embedded ones are served."""

    server: ServerSettings = ServerSettings()
    pool: PoolSettings = PoolSettings()
    limits: LimitSettings = LimitSettings()
    # Shares of the service by names in the token file.
    callers: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    models: tuple[ModelSpec, ...] = tuple(EMBEDDED.values())

    @property
    def first_models(self) -> tuple[ModelSpec, ...]:
        """Those that are loaded when the server starts; the others of the catalogue can be loaded later."""
        return tuple(spec for spec in self.models if spec.load)


class FrontEndSettings(Section):
    """What one front-end is told when it starts."""

    name: str  # How it calls itself to the keeper.
    place: str  # Its counters' files are called by this; its successor goes on with them.
    keeper: str  # Where the keeper is reached.
    directions: Path  # The folder of directions that callers keep, which all front-ends have in common.
    endpoints: tuple[str, ...]  # Where its workers connect.
    keys: tuple[str, str, str, str] | None  # `pool.keys.Keys`, for workers of other hosts.
    default: str  # The model of requests that name none.
    queue_seconds: float | None
    server: ServerSettings
    limits: LimitSettings
    callers: dict[str, float]
    log: LogSettings


def plan(
    config: Path | None, models: list[str], server: dict[str, Any], pool: dict[str, Any]
) -> tuple[Settings, dict[str, str], list[str]]:
    """The settings, why models cannot be loaded by name, and a device for each worker. Raises OSError, ValueError.

    This needs torch, which counts the GPUs, and torchvision, which knows the names of its models.
    """
    settings = settings_of(config, models, server, pool)
    return settings, faults_of(settings.first_models), devices(settings.pool)


def catalogue(
    config: Path | None, models: list[str], server: dict[str, Any], pool: dict[str, Any]
) -> tuple[tuple[ModelSpec, ...], dict[str, str]]:
    """The models of the file, or of the flags, and why some cannot be loaded, by name. Raises OSError, ValueError."""
    specs = merged(config, models, server, pool).models
    return specs, faults_of(specs)


def settings_of(config: Path | None, models: list[str], server: dict[str, Any], pool: dict[str, Any]) -> Settings:
    """The file's settings, overridden by the flags that were given, of which some model may be loadable.

    Raises OSError, ValueError.
    """
    settings = merged(config, models, server, pool)
    check_models(settings)
    return settings


def merged(config: Path | None, models: list[str], server: dict[str, Any], pool: dict[str, Any]) -> Settings:
    """The same, whatever is known of the models. Raises OSError, ValueError."""
    settings = read_settings(config)
    chosen = settings.model_dump()
    for section, flags in (("server", server), ("pool", pool)):
        chosen[section] |= {name: value for name, value in flags.items() if value is not None}
    if models:
        chosen["models"] = [from_flag(flag, settings.models) for flag in models]
    if chosen["pool"]["tuned"]:
        try:
            tuning = read_tuning(chosen["pool"]["tuned"])
        except OSError as error:
            raise ValueError(f"pool.tuned: {error}; gradserve bench --tune writes this file") from error
        defaults = fast_precisions_of(PoolSettings.model_validate(chosen["pool"]))
        chosen["models"] = [tuning.applied(ModelSpec.model_validate(spec), defaults) for spec in chosen["models"]]
    return Settings.model_validate(chosen)


def fast_precisions_of(pool: PoolSettings) -> tuple[Precision, ...]:
    """The precisions that the pool's first device computes fast."""
    import torch

    from .models.processor import fast_precisions

    return fast_precisions(torch.device(devices(pool)[0]))


def check_models(settings: Settings) -> None:
    """Raises ValueError if it is known already that no model can be loaded, or if strict, that one cannot."""
    faults = faults_of(settings.first_models)
    if not settings.first_models:
        raise ValueError("no model would be loaded: all have load = false, and one must be there from the start")
    if faults and (settings.server.strict or all(spec.name in faults for spec in settings.first_models)):
        raise ValueError("\n".join(f"model {name}: {fault}" for name, fault in faults.items()))


def read_settings(path: Path | None) -> Settings:
    """The settings of a TOML file, or the defaults. Raises OSError, ValueError."""
    if path is None:
        return Settings()
    tables = read_sections(path)
    return Settings.model_validate({**tables, "models": read_catalogue(path) or tuple(EMBEDDED.values())})


def read_sections(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, checked but for those of models, which take torch. Raises OSError, ValueError."""
    tables = read_toml(path)
    for section, name in PATH_SETTINGS:  # A path is relative to the configuration file.
        if isinstance(tables.get(section), dict) and isinstance(tables[section].get(name), str):
            tables[section][name] = path.parent / tables[section][name]
    for name, table in tables.items():
        kind = Settings.model_fields[name].annotation if name in Settings.model_fields else None
        if isinstance(kind, type) and issubclass(kind, Section):
            _check(kind, table, f"{path.name}, [{name}]")
    _check(Settings, tables | {"models": ()}, path.name)
    return tables


def _check(section: type[Section], table: object, where: str) -> None:
    """Raises ValueError with all that is wrong in a table."""
    try:
        section.model_validate(table)
    except ValidationError as error:
        raise ValueError(mistakes(error, where, section)) from error


def devices(pool: PoolSettings) -> list[str]:
    """One device name per worker."""
    import torch

    if pool.engine == "ray":  # Each worker sees the one GPU that Ray gives it.
        return ["cuda:0" if pool.device == "cuda" else "cpu"] * (pool.workers or 1)
    gpus = torch.cuda.device_count() if pool.device != "cpu" else 0
    if pool.device == "cuda" and not gpus:
        raise ValueError("pool.device is cuda, but this machine has no GPU; take auto or cpu")
    if gpus:
        return [f"cuda:{i % gpus}" for i in range(pool.workers or gpus * pool.workers_per_gpu)]
    return ["cpu"] * (pool.workers or max(1, cores() // pool.threads))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
