#!/usr/bin/env bash
# Installs ptycho into an image: the %post of every recipe, so that the recipes cannot drift apart.
#   install.sh TORCH INDEX COMMIT   TORCH "lock": the build in requirements.lock; else a version, from the index INDEX
#   install.sh --packages           the Debian packages it needs, parted by commas
# While an image is built, Apptainer shows the machine's own /tmp, /var/tmp and home folder in it. So this script works
# and clears up in /opt/ptycho-source only, and never outside a build.
# Python packages come from /mnt when wheels are mounted there (then nothing is fetched), else from the package index.
set -euo pipefail

# Open MPI with PMIx, and PMIx's door to munge: what "srun --mpi=pmix" talks to.
readonly PACKAGES=(python3 python3-venv openmpi-bin libmunge2 ca-certificates)
readonly SOURCE=/opt/ptycho-source HOME_OF_PTYCHO=/opt/ptycho WHEELS=/mnt

if [[ ${1:-} == --packages ]]; then
    (IFS=, && echo "${PACKAGES[*]}")
    exit
fi
if (($# != 3)); then
    echo "install.sh: give TORCH, INDEX and COMMIT. It runs inside an image while that is built." >&2
    exit 2
fi
torch=$1 index=$2 commit=$3
umask 022
if [[ ! -d /.singularity.d || ! -d $SOURCE ]]; then
    echo "install.sh: this is not an image that is being built. Build one with containers/build.sh." >&2
    exit 2
fi
# pip unpacks here, too.
export TMPDIR=$SOURCE/tmp
mkdir "$TMPDIR"

install_system_packages() {
    dpkg --status "${PACKAGES[@]}" >/dev/null 2>&1 && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"
    apt-get clean
    rm -rf /var/lib/apt/lists/*
}

# pip without the builder's settings and without a cache.
pip() {
    local sources=()
    if compgen -G "$WHEELS/*.whl" >/dev/null; then sources=(--no-index --find-links "$WHEELS"); fi
    "$HOME_OF_PTYCHO/bin/python" -m pip --isolated --disable-pip-version-check --no-cache-dir --quiet "$1" \
        "${sources[@]}" "${@:2}"
}

install_python_packages() {
    local work constraints
    work=$SOURCE/work
    mkdir "$work"
    constraints=$work/constraints.txt
    python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit("install.sh: ptycho needs Python 3.11 or newer; the base image has " + sys.version.split()[0] + ". Take a newer base image.")'
    python3 -m venv "$HOME_OF_PTYCHO"
    if [[ $torch == lock ]]; then
        cp "$SOURCE/requirements.lock" "$constraints"
    else
        { grep -v '^torch==' "$SOURCE/requirements.lock" && echo "torch==$torch"; } >"$constraints"
        pip install --no-compile --index-url "$index" --constraint "$constraints" torch
    fi
    pip install --no-compile --constraint "$constraints" setuptools
    # A wheel first: a package installed from a folder records that folder's path for ever.
    pip wheel --no-deps --no-build-isolation --wheel-dir "$work" "$SOURCE"
    pip install --no-compile --constraint "$constraints" --find-links "$work" 'ptychopinn[torch,mpi]'
    "$HOME_OF_PTYCHO/bin/python" -m pip --isolated --quiet uninstall --yes pip
}

# Test programs, tests and C++ headers, and filters that no detector writes (SZ, SZ3 and SPERR compress simulations, with
# loss): a sixth of the image, and nothing that runs needs them.
remove_unneeded() {
    cd "$HOME_OF_PTYCHO"/lib/python3*/site-packages
    rm -rf torch/test torch/include
    find torch/bin -type f ! -name torch_shm_manager -delete
    find numpy scipy sympy networkx matplotlib -type d -name tests -prune -exec rm -rf {} +
    if grep -q "'sperr', 'sz', 'sz3', " hdf5plugin/_config.py; then
        sed -i "s/'sperr', 'sz', 'sz3', //" hdf5plugin/_config.py
        rm hdf5plugin/plugins/libh5{sperr,sz,sz3}.so
    fi
    cd /
}

# The .pyc files stay in the image: it is read-only, so that every start would compile everything again. All cores make
# them, once the tests are gone; templates that are no Python are left as they are.
compile_modules() {
    "$HOME_OF_PTYCHO/bin/python" -m compileall -q -j 0 "$HOME_OF_PTYCHO"/lib/python3*/site-packages >/dev/null || true
    ls "$HOME_OF_PTYCHO"/lib/python3*/site-packages/ptycho/cli/__pycache__/main.*.pyc >/dev/null
}

write_labels() {
    local labels=${APPTAINER_LABELS:-${SINGULARITY_LABELS:-/dev/null}}
    version_of() { "$HOME_OF_PTYCHO/bin/python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1"; }
    cat >>"$labels" <<TEXT
org.opencontainers.image.title ptycho
org.opencontainers.image.licenses BSD-3-Clause
org.opencontainers.image.version $(version_of ptychopinn)
org.opencontainers.image.revision $commit
ptycho.lock.sha256 $(sha256sum "$SOURCE/requirements.lock" | cut -d' ' -f1)
ptycho.torch $(version_of torch)
TEXT
}

install_system_packages
install_python_packages
remove_unneeded
compile_modules
write_labels
install -m 755 "$SOURCE/containers/selftest.sh" "$HOME_OF_PTYCHO/selftest"
rm -rf --one-file-system "$SOURCE"
