#!/usr/bin/env bash
# Every measurement that needs a GPU, in at most eight minutes, on a machine with a GPU, its own torch and no network.
#
#   benchmarks/gpu.sh prepare [--python-version 3.12]   with a package index: fill build/gpu (64 MiB at most)
#   benchmarks/gpu.sh                                   on the GPU machine, with build/gpu: write build/gpu.json
#   benchmarks/gpu.sh --quick                           on any machine: try all parts at tiny size
#
# PYTHON names the interpreter, by default python3. More options: python benchmarks/gpu.py --help
set -euo pipefail
LIMIT=475 # seconds for installation and measurements
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ "${1-}" = prepare ]; then
  shift
  exec "$python" benchmarks/gpu_carry.py "$@"
fi
version=$("$python" -c 'import sys; print(".".join(map(str, sys.version_info[:2])))')
carried_for=$(cat build/gpu/python_version 2>/dev/null || true)
if [ "$carried_for" = "$version" ]; then
  # A folder ahead of the machine's packages on the path. A virtual environment would not do: one that is made
  # by the Python of another one, which may hold torch, does not see that one's packages.
  site=$PWD/build/gpu-packages
  rm -rf "$site"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" build/gpu/wheels/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
elif [ -n "$carried_for" ]; then
  echo "build/gpu holds wheels for Python $carried_for and this is $version: they are not installed" >&2
fi
case " $* " in *" --quick "*) limit=() ;; *) limit=(--limit $((LIMIT - SECONDS))) ;; esac
exec "$python" benchmarks/gpu.py "${limit[@]}" "$@"
