"""Builds both wheels, installs them as users do, and asks a server for a prediction; then installs from a checkout.

    python tests/wheels.py

The wheels are made of source distributions, and must be those that the checkout gives; they are left in dist/. Each
environment is a fresh one of the running Python. Those with the server see the packages of the running environment, so
that torch is not downloaded again; the client's come from the package index.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import tomllib
import venv
import zipfile
from pathlib import Path

from client.compatibility import ROOT, copied

DIST = ROOT / "dist"
MAX_CLIENT_BYTES = 1 << 20
PACKAGES = Path(sysconfig.get_paths()["purelib"])
START_SECONDS = 240
STOP_SECONDS = 60
SENTENCE = (
    "error: this needs the server, which is not installed; install the server with\n  pip install 'gradserve[server]'"
)
SDIST = "import os, sys; os.chdir(sys.argv[1]); from setuptools import build_meta; build_meta.build_sdist(sys.argv[2])"
PICTURE = "import sys; from PIL import Image; Image.effect_noise((8, 8), 99).save(sys.argv[1])"


def run(*command: str | Path, status: int = 0, **variables: str) -> str:
    """What a command prints, errors too. Raises SystemExit where it ends with another status."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=tempfile.gettempdir(), env=environment, text=True, **merged)  # type: ignore[call-overload]
    if done.returncode != status:
        raise SystemExit(f"{done.stdout}\nended with {done.returncode}, and should have with {status}")
    return str(done.stdout)


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """The wheels of client and server, as for a release: by way of source distributions, which `folder` gets."""
    shutil.rmtree(DIST, ignore_errors=True)
    for part in (source, source / "server"):
        run(sys.executable, "-c", SDIST, part, folder, GRADSERVE_RELEASE="yes")
    # With the running environment's setuptools, which wheels name; installing from a checkout takes a fresh one.
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    run(*wheel, DIST, *folder.glob("*.tar.gz"))
    run(*wheel, folder, source, source / "server", GRADSERVE_RELEASE="yes")
    (client,), (server,) = DIST.glob("gradserve-*.whl"), DIST.glob("gradserve_server-*.whl")
    for made in (client, server):
        ours, theirs = files(made), files(folder / made.name)
        others = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        assert not others, f"{made.name} of the source distribution has another {others[0]} than that of the checkout"
    return client, server


def files(wheel: Path) -> dict[str, bytes]:
    """What a wheel holds, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check_contents(client: Path, server: Path) -> None:
    """The client's wheel has nothing of the server and needs no torch; neither names a folder of this machine."""
    for wheel, package in ((client, "gradserve/"), (server, "gradserve_server/")):
        contents = files(wheel)
        (metadata,) = [name for name in contents if name.endswith(".dist-info/METADATA")]
        own, text = (package, metadata.partition("/")[0]), contents[metadata].decode()
        others = [name for name in contents if not name.startswith(own)]
        licences = [name for name in contents if name.endswith("LICENSE")]
        assert not others, f"{wheel.name} has {others[0]}"
        assert licences, f"{wheel.name} has no license"
        needed = [line for line in text.splitlines() if line.startswith("Requires-Dist:")]
        assert not [line for line in needed if "file:" in line], needed
        assert wheel is server or not [line for line in needed if "torch" in line], needed
    assert client.stat().st_size < MAX_CLIENT_BYTES, f"{client.name} has {client.stat().st_size} bytes"


def environment(folder: Path, *, with_packages: bool) -> Path:
    """The programs of a fresh environment; `with_packages`: it sees those of this one but for gradserve itself."""
    venv.create(folder, with_pip=True)
    if with_packages:
        seen = folder / "seen"
        seen.mkdir()
        for entry in PACKAGES.iterdir():
            if not entry.name.startswith(("gradserve", "__editable__", "pip")):
                (seen / entry.name).symlink_to(entry)
        (own,) = folder.glob("lib/python*/site-packages")
        for older in own.glob("setuptools*"):
            shutil.rmtree(older)  # The one that comes with Python is older than torch asks for.
        (own / "seen.pth").write_text(f"{seen}\n")
    return folder / "bin"


def ask(server: Path, client: Path, folder: Path) -> None:
    """Starts the one environment's server, and asks it by the other one's client."""
    picture = folder / "picture.png"
    run(client / "python", "-c", PICTURE, picture)
    command = [server / "gradserve", "serve", "--model", "digits", "--port", "0", "--metrics-port", "0"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    print("$", *command, flush=True)
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        try:
            ready = next((line for line in process.stdout if "gradserve ready" in line), "")
            if not ready:
                raise SystemExit(f"the server ended before it was ready, or was not ready within {START_SECONDS} s")
            late.cancel()
            print(run(client / "gradserve", "predict", picture, "--server", ready.split()[-1]), end="")
        finally:
            late.cancel()
            process.terminate()
            process.wait(STOP_SECONDS)


def main() -> int:
    """0 if all is as it should be; raises AssertionError or SystemExit, which say what is not."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = copied(folder / "source")
        (folder / "built").mkdir()
        wheels = build(source, folder / "built")
        check_contents(*wheels)
        client = environment(folder / "client", with_packages=False)
        run(client / "pip", "install", "--quiet", wheels[0])
        assert run(client / "gradserve", "serve", status=1).strip() == SENTENCE
        server = environment(folder / "server", with_packages=True)
        offline = ["--quiet", "--no-index", "--find-links", DIST]
        run(server / "pip", "install", *offline, f"gradserve[server]=={version}")
        ask(server, client, folder)
        for extra in ("server", "ray", "otel"):
            own = folder / f"checkout-{extra}"
            bin_ = environment(own, with_packages=True)
            run(bin_ / "pip", "install", "--quiet", f"{source}[{extra}]")
            run(bin_ / "gradserve", "serve", "--help")
            where = run(bin_ / "python", "-c", "import gradserve_server; print(gradserve_server.__file__)")
            assert where.startswith(str(own)), where
    print(f"passed: {', '.join(path.name for path in wheels)} in dist/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
