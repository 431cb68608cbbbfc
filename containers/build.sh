#!/usr/bin/env bash
# Builds ./ptycho.sif, an image for CPUs, without a container registry. README.md says more.
#   containers/build.sh [IMAGE]     default: ptycho.sif in the repository's root
# The Debian folder and the wheels stay in $PTYCHO_CONTAINER_DIR (default /tmp/ptycho-containers) for the next build.
set -euo pipefail
ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
STATE=$(realpath --canonicalize-missing "${PTYCHO_CONTAINER_DIR:-/tmp/ptycho-containers}")
IMAGE=$(realpath --canonicalize-missing "${1:-$ROOT/ptycho.sif}")
readonly ROOT STATE IMAGE BUILD=$STATE/build
# Level 15 would make the image smaller by a few megabytes, and takes most of the build's time.
readonly SQUASH="-b 1M -comp zstd -Xcompression-level 6"
PYTHON=${PYTHON:-python3}

say() { printf 'build.sh: %s\n' "$*" >&2; }

refuse() {
    say "$@"
    exit 2
}

# step TEXT COMMAND...: the command, with the seconds that it took.
step() {
    local text=$1 started=$SECONDS
    shift
    say "$text ..."
    "$@"
    say "$text: done in $((SECONDS - started)) s."
}

# together TEXT COMMAND -- TEXT COMMAND ...: steps that do not need one another, at the same time.
together() {
    local jobs=() words=() word failed=0
    for word in "$@" --; do
        if [[ $word != -- ]]; then
            words+=("$word")
        elif ((${#words[@]})); then
            step "${words[@]}" &
            jobs+=($!)
            words=()
        fi
    done
    for word in "${jobs[@]}"; do wait "$word" || failed=$?; done
    return "$failed"
}

# The lock file pins the developers' tools as well: it is used to choose versions, pyproject.toml to choose packages.
list_packages() {
    "$PYTHON" - "$ROOT/pyproject.toml" <<'TEXT'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    declared = tomllib.load(file)
extras = declared["project"]["optional-dependencies"]
print(*declared["build-system"]["requires"], *declared["project"]["dependencies"], *extras["torch"], *extras["mpi"], sep="\n")
TEXT
}

# Wheels for the Python of Debian 12. The folder's name changes with what is in it, so it is never out of date.
download_wheels() {
    rm -rf --one-file-system "$STATE"/wheels-*
    mkdir -p "$wheels.new"
    list_packages >"$wheels.new/packages.txt"
    "$PYTHON" -m pip download --quiet --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.11 \
        --dest "$wheels.new" --constraint "$ROOT/requirements.lock" --requirement "$wheels.new/packages.txt"
    mv "$wheels.new" "$wheels"
}

# A copy in a folder with short names: Apptainer writes the names that it is given into the image.
copy_sources() {
    rm -rf --one-file-system "$BUILD"
    mkdir -p "$BUILD/containers" "$BUILD/tmp"
    cp -r "$ROOT"/{ptycho,ptycho_torch,pyproject.toml,requirements.lock,README.md,LICENSE} "$BUILD"
    cp "$ROOT"/containers/{cpu.def,install.sh,selftest.sh} "$BUILD/containers"
    find "$BUILD" -name __pycache__ -prune -exec rm -rf {} +
    ln -s "$STATE/bookworm" "$BUILD/bookworm"
}

build() {
    cd "$BUILD"
    APPTAINER_TMPDIR=$BUILD/tmp APPTAINER_CACHEDIR=$BUILD/cache "$ROOT/containers/apptainer.sh" --quiet build --force \
        --notest --bind "$wheels:/mnt" --mksquashfs-args "$SQUASH" \
        --build-arg "COMMIT=$commit" ptycho.sif containers/cpu.def >"$STATE/build.log" 2>&1 || {
        tail -n 15 "$STATE/build.log" >&2
        refuse "The image could not be built; the whole log is $STATE/build.log."
    }
    mv ptycho.sif "$IMAGE.new"
    mv "$IMAGE.new" "$IMAGE"
    cd "$ROOT"
    rm -rf --one-file-system "$BUILD"
}

"$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    refuse "$PYTHON is not Python 3.11 or newer with pip. Name another one: PYTHON=python3.12 containers/build.sh"
mkdir -p "$STATE"
[[ -O $STATE ]] || refuse "$STATE belongs to someone else. Name another folder with PTYCHO_CONTAINER_DIR."
wheels=$STATE/wheels-$({ list_packages && cat "$ROOT/requirements.lock"; } | sha256sum | cut -c1-12)
commit=$(git -C "$ROOT" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

needed=("Apptainer" "$ROOT/containers/apptainer.sh" --version)
if [[ ! -d $STATE/bookworm ]]; then
    packages=$(bash "$ROOT/containers/install.sh" --packages)
    needed+=(-- "Debian 12 as a folder" "$ROOT/containers/debian.sh" bookworm minbase "$STATE/bookworm" "$packages")
fi
if [[ ! -d $wheels ]]; then needed+=(-- "Python packages as wheels" download_wheels); fi
together "${needed[@]}"
copy_sources
step "The image" build
say "$IMAGE, $(du --apparent-size --block-size=1M "$IMAGE" | cut -f1) MB. Test it: containers/apptainer.sh test --cleanenv $IMAGE"
