"""A folder with an ARM Python and its packages, and the command that runs it under QEMU; the host stays as it is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Notes of what a finished folder holds.
STAMP = "ready.json"
# Processors: QEMU's model, and what they call themselves: implementer, variant, part, revision. Of the 64-bit ones the
# first has no dot products, the second has them, the third has SVE and products of 8-bit matrices, the last SME, too.
CPUS = {
    "cortex-a53": ("cortex-a53", 0x41, 0, 0xD03, 4),
    "cortex-a76": ("cortex-a76", 0x41, 4, 0xD0B, 1),
    "i8mm": ("max,sme=off", 0x51, 0, 0x51, 0),
    "sme": ("max", 0x51, 0, 0x51, 0),
    "cortex-a7": ("cortex-a7", 0x41, 0, 0xC07, 5),
}
IN_32_BITS = ("cortex-a7",)
# QEMU 7.2 computes the matrix products of SME wrong.
SME_VERSION = 10


@dataclasses.dataclass(frozen=True)
class System:
    """An ARM system.

    Args:
        architecture: Debian's name of it.
        qemu: the program that runs it.
        debian: packages of Debian; apt adds those that they need.
        platforms: pip's names of it, newest last.
        wheels: packages of Python, with versions.
        libraries: folders of libraries that the system's own links do not lead to.
    """

    architecture: str
    qemu: str
    debian: tuple[str, ...]
    platforms: tuple[str, ...]
    wheels: tuple[str, ...]
    libraries: tuple[str, ...] = ()


def system_of(cpu: str, qemu_dir: str | None) -> System:
    """Returns the system of a processor.

    Args:
        cpu: of `CPUS`. The 32-bit one gets the last runtime for it, tflite-runtime of 2023, the others this
            environment's versions of ai-edge-litert and NumPy.
        qemu_dir: the folder of the emulator's programs, or None for those of the host.
    """
    folder = "" if qemu_dir is None else f"{qemu_dir.rstrip('/')}/"
    if cpu in IN_32_BITS:
        packages, platforms = ("python3", "python3-numpy", "libstdc++6"), ("manylinux_2_34_armv7l",)
        libraries = tuple(f"usr/lib/arm-linux-gnueabihf/{name}" for name in ("blas", "lapack"))
        return System("armhf", f"{folder}qemu-arm", packages, platforms, ("tflite-runtime==2.14.0",), libraries)
    wheels = tuple(f"{name}=={importlib.metadata.version(name)}" for name in ("ai-edge-litert", "numpy"))
    glibc = tuple(f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28))
    return System("arm64", f"{folder}qemu-aarch64", ("python3", "libstdc++6"), glibc, wheels)


def require(system: System, which: Callable[[str], str | None] = shutil.which) -> None:
    """Raises RuntimeError where a program is missing, with the command that installs it."""
    packages = {system.qemu: "qemu-user", "apt-get": "apt", "dpkg-deb": "dpkg"}
    missing = [program for program in packages if which(program) is None]
    if missing:
        raise RuntimeError(
            f"{' and '.join(missing)} not found; expected on a Debian or Ubuntu machine with QEMU. "
            f"Run: apt-get install {' '.join(packages[program] for program in missing)}"
        )


def apt_command(system: System, folder: Path, *words: str) -> list[str]:
    """Returns a command of apt that reads and writes its state in a folder, and only there."""
    state = folder / "apt"
    options = {
        "APT::Architecture": system.architecture,
        "APT::Architectures": system.architecture,
        "APT::Sandbox::User": "",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    return ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}")), *words]


def pip_command(system: System, folder: Path) -> list[str]:
    """Returns the command of pip that puts the system's wheels into a folder that holds its Python."""
    version = os.readlink(folder / "system" / "usr" / "bin" / "python3").removeprefix("python")
    platforms = [part for name in system.platforms for part in ("--platform", name)]
    only = ["--only-binary=:all:", "--no-deps", "--implementation=cp", f"--python-version={version}"]
    target = ["--target", str(folder / "site")]
    return [sys.executable, "-m", "pip", "install", "-q", *only, *platforms, *target, *system.wheels]


def run_command(system: System, folder: Path, cpu: str) -> list[str]:
    """Returns the command that runs the folder's Python on an emulated processor.

    Args:
        system: the system.
        folder: its folder.
        cpu: of `CPUS`.
    """
    root = folder / "system"
    # The host's own libraries and Python are not the system's.
    unset = [part for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME") for part in ("-U", name)]
    if system.libraries:
        libraries = os.pathsep.join(str(root / name) for name in system.libraries)
        unset = [*unset[2:], "-E", f"LD_LIBRARY_PATH={libraries}"]
    settings = ["-E", f"PYTHONPATH={folder / 'site'}", "-E", "PYTHONDONTWRITEBYTECODE=1"]
    return [
        system.qemu,
        "-cpu",
        CPUS[cpu][0],
        *unset,
        *settings,
        "-L",
        str(root),
        str(root / "usr" / "bin" / "python3"),
    ]


def checked_version(system: System, cpu: str) -> str:
    """Returns the emulator's version; raises RuntimeError where it is known to compute wrong."""
    told = subprocess.run([system.qemu, "--version"], capture_output=True, text=True, check=True).stdout
    version = told.partition("version ")[2].split()[0]
    if cpu == "sme" and int(version.partition(".")[0]) < SME_VERSION:
        raise RuntimeError(
            f"{system.qemu} is version {version}; expected {SME_VERSION} or newer for --cpus=sme, as 7.2 computes the "
            f"matrix products of SME wrong. Pass --qemu_dir=DIR with a newer one; Debian 13 has it in qemu-user."
        )
    return version


def describe_processor(folder: Path, cpu: str) -> None:
    """Writes what Linux says of a processor; QEMU would show that of the host, with which XNNPACK crashes on ARM."""
    _, implementer, variant, part, revision = CPUS[cpu]
    lines = {
        "processor": "0",
        # Kernels are chosen by the auxiliary vector, which QEMU fills.
        "Features": "half thumb vfp edsp neon vfpv3 vfpv4" if cpu in IN_32_BITS else "fp asimd cpuid",
        "CPU implementer": f"{implementer:#x}",
        "CPU architecture": "7" if cpu in IN_32_BITS else "8",
        "CPU variant": f"{variant:#x}",
        "CPU part": f"{part:#x}",
        "CPU revision": str(revision),
    }
    text = "".join(f"{name}\t: {value}\n" for name, value in lines.items())
    cores = "sys/devices/system/cpu"
    for name, content in (("proc/cpuinfo", text), (f"{cores}/possible", "0"), (f"{cores}/present", "0")):
        path = folder / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")


def prepare(system: System, folder: Path) -> None:
    """Fetches the system into a folder, unless it is there.

    Raises:
        RuntimeError: a program is missing, or a download fails.
    """
    require(system)
    contents = {name: value for name, value in dataclasses.asdict(system).items() if name != "qemu"}
    contents = json.loads(json.dumps(contents))
    stamp = folder / STAMP
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == contents:
        return
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "apt").exists():
            raise RuntimeError(
                f"{folder} holds other files. Expected an empty folder or a new one; choose another --root."
            )
        shutil.rmtree(folder)
    for part in ("apt/state/lists/partial", "apt/cache/archives/partial", "system", "site"):
        (folder / part).mkdir(parents=True)
    (folder / "apt" / "status").touch()
    _call(apt_command(system, folder, "update"))
    install = ("install", "-y", "--download-only", "--no-install-recommends", *system.debian)
    _call(apt_command(system, folder, *install))
    for package in sorted((folder / "apt" / "cache" / "archives").glob("*.deb")):
        _call(["dpkg-deb", "-x", str(package), str(folder / "system")])
    _call(pip_command(system, folder))
    stamp.write_text(json.dumps(contents), encoding="utf-8")


def _call(command: list[str]) -> None:
    """Runs a command; its last lines are in the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        program = "pip" if "pip" in command else command[0]
        raise RuntimeError(
            f"{program} ended with exit status {done.returncode}: {last or 'no message'}. Expected access to Debian's "
            f"packages and to PyPI; check the network, then run again."
        )
