#!/usr/bin/env bash
# Makes .kit/: what a GPU machine without network lacks to run this tree, and images to measure on.
#
#   scripts/gpu_kit.sh [DATA]     DATA: a folder with imagenet-400.tar and cifar10.tar.xz [default: ../shared/data]
#
# There, in the root of the tree:   source .kit/env.sh && python3 -m pytest -m gpu
# The machine brings x86-64 Linux, Python 3.12 and what its torch comes with (numpy, numba, pillow, pytest, ...).
set -euo pipefail
cd "$(dirname "$0")/.."

DATA="${1:-../shared/data}"
PYTHON="${PYTHON:-.venv/bin/python}"
KIT=.kit
BINARY_WHEELS=(google-crc32c numcodecs tbb tcmlib)
PURE_WHEELS=(assertpy donfig fastargs pytorch-pfn-extras terminaltables zarr)
PHOTOS=200 CIFAR_TRAIN=1000 CIFAR_TEST=200 # photos in all; CIFAR images of each class

say() { echo "gpu_kit: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }

# Unzipped, not installed: `pip install --target` would drop the libraries that the wheel of tbb keeps outside its package.
collect_packages() { # into $1
    local wheels
    wheels=$(mktemp -d)
    pip_quietly download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -c constraints.txt -d "$wheels" "${BINARY_WHEELS[@]}"
    pip_quietly wheel --no-deps -c constraints.txt -w "$wheels" "${PURE_WHEELS[@]}"
    for wheel in "$wheels"/*.whl; do
        "$PYTHON" -m zipfile -e "$wheel" "$1"
    done
    rm -r "$wheels"
}

pip_quietly() {
    local words
    words=$("$PYTHON" -m pip "$@" --quiet --disable-pip-version-check 2>&1) || fail "pip $1 failed: $words"
}

# ffcv's compiled part takes two symbols from Python, which every version has: without the version in its name, 3.12 loads it.
collect_ffcv() { # into $1, from the environment of $PYTHON
    local installed
    installed=$("$PYTHON" -c 'from importlib.metadata import distribution as d; print(d("ffcv").locate_file(""))')
    cp -r "$installed/ffcv" "$installed"/ffcv-*.dist-info "$1"
    find "$1/ffcv" -name __pycache__ -prune -exec rm -r {} +
    mv "$1"/ffcv/_libffcv.*.so "$1/ffcv/_libffcv.so"
}

# All that ffcv's compiled part and we load of the system's, but zlib and the C and C++ runtimes; TBB is the one of the package.
collect_libraries() { # into $2, for the packages in $1
    ldd "$1/ffcv/_libffcv.so" | awk '$3 ~ /^\// {print $3}' |
        grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libz|libtbb)\.so' |
        while read -r library; do cp -L "$library" "$2"; done
    ln -s libturbojpeg.so.0 "$2/libturbojpeg.so" # the name that ctypes.util.find_library looks for
    ln -s "../site/$(cd "$1" && ls -d tbb-*.data/data/lib/libtbb.so.12)" "$2/libtbb.so.12"
}

collect_photos() { # into $1: the first photos, at most 500 pixels wide and high
    "$PYTHON" - "$DATA/imagenet-400.tar" "$1" "$PHOTOS" <<'PYTHON'
import sys, tarfile
from pathlib import Path
from PIL import Image

archive, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with tarfile.open(archive) as photos:
    for member in sorted(photos.getmembers(), key=lambda member: member.name)[:count]:
        photo = Image.open(photos.extractfile(member)).convert("RGB")
        photo.thumbnail((500, 500), Image.Resampling.LANCZOS)
        photo.save(folder / f"{Path(member.name).stem}.jpg", quality=90)
PYTHON
}

collect_cifar() { # into $1: some images of every class, as JPEG files in class folders
    local unpacked
    unpacked=$(mktemp -d)
    tar xJf "$DATA/cifar10.tar.xz" -C "$unpacked"
    keep_first "$unpacked/train" "$CIFAR_TRAIN"
    keep_first "$unpacked/test" "$CIFAR_TEST"
    tar cJf "$1/cifar10.tar.xz" -C "$unpacked" train test
    rm -r "$unpacked"
}

keep_first() { # of each class folder in $1, $2 files
    for class in "$1"/*/; do
        find "$class" -type f | sort | tail -n "+$(($2 + 1))" | xargs -r rm
    done
}

write_env() {
    cat >"$KIT/env.sh" <<'ENV'
# To be sourced: unpacks the kit, once, and puts it and this tree before all else, for this shell alone.
_kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_unpacked=${FASTLABEL_KIT:-${TMPDIR:-/tmp}/fastlabel-kit-$(id -u)}
if ! cmp -s "$_kit/version" "$_unpacked/version"; then
    rm -rf "$_unpacked" && mkdir -p "$_unpacked" &&
        python3 -m tarfile --filter data --extract "$_kit/kit.tar.xz" "$_unpacked" && cp "$_kit/version" "$_unpacked"
fi
export PYTHONPATH="$(dirname "$_kit"):$_unpacked/site"
export LD_LIBRARY_PATH="$_unpacked/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
unset _kit _unpacked
ENV
}

main() {
    "$PYTHON" -c 'import ffcv' 2>/dev/null || fail "$PYTHON has no ffcv to take along; run: make setup"
    rm -rf "$KIT"
    mkdir -p "$KIT/photos"
    local tree
    tree=$(mktemp -d)
    mkdir "$tree/site" "$tree/lib"
    say "packages"
    collect_packages "$tree/site"
    collect_ffcv "$tree/site"
    collect_libraries "$tree/site" "$tree/lib"
    XZ_OPT=-6 tar cJf "$KIT/kit.tar.xz" -C "$tree" site lib
    sha256sum <"$KIT/kit.tar.xz" >"$KIT/version"
    rm -r "$tree"
    write_env
    if [ -d "$DATA" ]; then
        say "photos and CIFAR-10"
        collect_photos "$KIT/photos"
        collect_cifar "$KIT"
    else
        say "no folder $DATA: the kit holds no images"
    fi
    say "done: $(du -sm "$KIT" | cut -f1) MB in $KIT"
}

main
