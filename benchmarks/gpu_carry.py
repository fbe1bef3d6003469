"""Fill build/gpu with what a machine with a GPU and no network needs beside its own torch.

    benchmarks/gpu.sh prepare --python-version 3.12

Downloads the wheels of `gpu_requirements.txt` for that Python on x86-64 Linux, copies Fashion-MNIST beside
them, and prints the size. Fails when that and the tracked files of this repository are over 64 MiB together.
onnxruntime-gpu comes along where it fits; where it does not, its size is noted in left_out.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CARRIED = REPOSITORY / "build/gpu"
MOST_BYTES = 64 * 2**20
GLIBC_MINORS = (39, 38, 37, 36, 35, 34, 31, 28, 27, 26, 24, 17)  # pip matches a platform's tag exactly
IMAGES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
GPU_RUNTIME = "onnxruntime-gpu"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python-version", default="3.12", help="of the GPU machine's Python")
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        metavar="FOLDER",
        help="the four packed files of Fashion-MNIST; default: where Debian's dataset-fashion-mnist has them",
    )
    options = parser.parse_args()
    missing = [name for name in IMAGES if not (options.images / name).is_file()]
    if missing:
        raise SystemExit(
            f"error: {options.images}: found no {', '.join(missing)}. "
            "Install dataset-fashion-mnist, or name another folder with --images"
        )
    prepare(options.python_version, options.images, runtime_version())


def prepare(python_version: str, images: Path, runtime: str) -> None:
    """Fill `CARRIED` anew."""
    shutil.rmtree(CARRIED, ignore_errors=True)
    wheels = CARRIED / "wheels"
    wheels.mkdir(parents=True)
    requirements = REPOSITORY / "benchmarks/gpu_requirements.txt"
    download = ["download", "--quiet", "--dest", str(wheels), "--requirement", str(requirements)]
    pip([*download, *target(python_version)])
    (CARRIED / "python_version").write_text(python_version, encoding="utf-8")
    shutil.copytree(images, CARRIED / "fashion-mnist", ignore=lambda _, names: set(names) - set(IMAGES))
    left = MOST_BYTES - size_of(CARRIED) - tracked_bytes()
    if left < 0:
        raise SystemExit(
            f"error: {CARRIED} and the tracked files hold {-left / 2**20:.1f} MiB more than "
            f"{MOST_BYTES // 2**20} MiB. Shorten gpu_requirements.txt by what the GPU machine has"
        )
    size = wheel_bytes(f"{GPU_RUNTIME}=={runtime}", python_version)
    if size <= left:
        pip(
            [
                "download",
                "--quiet",
                "--dest",
                str(wheels),
                *target(python_version),
                f"{GPU_RUNTIME}=={runtime}",
            ]
        )
    else:
        (CARRIED / "left_out.json").write_text(
            json.dumps({f"{GPU_RUNTIME} {runtime}": size}), encoding="utf-8"
        )
        print(f"left out: {GPU_RUNTIME} {runtime}, {size / 1e6:.0f} MB")
    total = size_of(CARRIED)
    print(
        f"{CARRIED}: {total / 2**20:.1f} MiB, {(total + tracked_bytes()) / 2**20:.1f} with the tracked files"
    )


def target(python_version: str) -> list[str]:
    """pip's options for wheels of that Python on x86-64 Linux."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS] + ["manylinux2014_x86_64"]
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        python_version,
    ]
    return [*options, *(part for platform in platforms for part in ("--platform", platform))]


def wheel_bytes(requirement: str, python_version: str) -> int:
    """The size of a package's wheel, which is not downloaded."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        choice = ["--dry-run", "--ignore-installed", "--target", scratch, *target(python_version)]
        pip(["install", "--quiet", "--report", str(report), *choice, requirement])
        url = json.loads(report.read_text(encoding="utf-8"))["install"][0]["download_info"]["url"]
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def runtime_version() -> str:
    """The version of ONNX Runtime that this repository pins."""
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2].split()[0] for line in lines if line.startswith("onnxruntime=="))


def pip(arguments: list[str]) -> None:
    if code := subprocess.run([sys.executable, "-m", "pip", *arguments], check=False).returncode:
        raise SystemExit(code)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tracked_bytes() -> int:
    """The size of the files that git tracks: they travel too."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    paths = (REPOSITORY / name for name in done.stdout.split("\0") if name)
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()
