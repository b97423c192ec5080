"""Where a server is: the addresses that clients take, and the proxies that gRPC reaches them through."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

DEFAULT_ADDRESS = "127.0.0.1:50051"
EXAMPLES = "such as 127.0.0.1:50051, example.org:50051, [::1]:50051 or unix:/run/gradserve.sock"
UNIX = ("unix:", "unix-abstract:")
# The name schemes that gRPC resolves.
SCHEMES = (*UNIX, "dns:", "ipv4:", "ipv6:", "vsock:", "xds:", "google-c2p:", "passthrough:")
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # The environment's variables, in gRPC's order.
EXEMPTIONS = ("no_grpc_proxy", "no_proxy")
URL_SCHEMES = {"http": False, "grpc": False, "https": True, "grpcs": True}  # Whether each asks for TLS.


def split(target: str) -> tuple[str, bool]:
    """The address of a target, and whether it asks for TLS: grpcs://HOST:PORT and https://HOST:PORT do.

    Raises ValueError where it is no address, and for a URL with a path.
    """
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in URL_SCHEMES:
        return checked(target), False
    rest = rest.removesuffix("/")
    if "/" in rest:
        raise ValueError(f"{target!r}: a server's address has no path; write {scheme}://{rest.partition('/')[0]}")
    return checked(rest), URL_SCHEMES[scheme.lower()]


def checked(target: str) -> str:
    """The address, if it is one: HOST:PORT, [IPV6]:PORT, unix:PATH or another of gRPC's names. Raises ValueError."""
    if not target.strip():
        raise ValueError(f"the server's address is empty; write HOST:PORT, {EXAMPLES}")
    if target.startswith(SCHEMES):
        if target.startswith(UNIX) and not target.partition(":")[2].strip("/"):
            raise ValueError(f"{target!r} names no socket; write unix:PATH")
        return target
    host, colon, port = target.rpartition(":")
    if not colon or target.endswith("]"):
        raise ValueError(f"{target!r} has no port; write HOST:PORT, {EXAMPLES}")
    if not host:
        raise ValueError(f"{target!r} has no host; write HOST:PORT, {EXAMPLES}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{target!r}: an IPv6 address stands in brackets before its port, as in [::1]:50051")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{target!r}: a port is a number from 1 to 65535, not {port!r}")
    return target


def is_local(target: str) -> bool:
    """Whether it is on this machine: a loopback address, or a unix socket."""
    if target.startswith(UNIX):
        return True
    host = _host(target)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in ("localhost", "ip6-localhost")


def proxy(target: str) -> str:
    """How gRPC goes through a proxy to that address, for people: the variable and its value; "" where it does not."""
    if is_local(target):
        return ""
    name = next((name for name in PROXIES if os.environ.get(name)), None)
    if name is None or _exempt(_host(target)):
        return ""
    url = urlsplit(os.environ[name])
    shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else "..."  # The password is left out.
    return f"{name}={shown}"


def _host(target: str) -> str:
    name = target.rpartition("/")[2]
    for scheme in SCHEMES:
        name = name.removeprefix(scheme)
    return name.rpartition(":")[0].strip("[]")


def _exempt(host: str) -> bool:
    """Whether the environment says to go past the proxy: names of hosts or of their domains, separated by commas."""
    names = next((os.environ[name] for name in EXEMPTIONS if os.environ.get(name)), "")
    return any(host.lower().endswith(each.strip().lower()) for each in names.split(",") if each.strip())
