#!/usr/bin/env bash
# What only a GPU can tell: see benchmarks/gpu_check. Runs in .venv, or without it on the kit of scripts/gpu_kit.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
elif [ -e .kit/env.sh ]; then
    source .kit/env.sh
    python=python3
else
    echo "error: there is neither .venv (make setup) nor .kit (scripts/gpu_kit.sh, where there is network)" >&2
    exit 1
fi
exec "$python" -m fastlabel.benchmarks.gpu_check "$@"
