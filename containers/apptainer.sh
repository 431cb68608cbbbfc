#!/usr/bin/env bash
# Apptainer: this machine's own where it has one, else Debian's in a folder. README.md says more.
set -euo pipefail

# For "containers/apptainer.sh" without arguments.
usage() {
    cat <<'TEXT'
Runs Apptainer with the arguments given:  containers/apptainer.sh exec ptycho.sif ptycho doctor

Uses this machine's apptainer or singularity. Where there is none (Debian, as root), Apptainer is fetched once from
Debian unstable into $PTYCHO_CONTAINER_DIR/apptainer (default /tmp/ptycho-containers/apptainer, 230 MB) and used from
there; nothing is installed on the machine itself. Files keep their paths, except those in /usr, /etc and /var.
TEXT
}

STATE=$(realpath --canonicalize-missing "${PTYCHO_CONTAINER_DIR:-/tmp/ptycho-containers}")
HERE=$(dirname "$(readlink -f "$0")")
readonly STATE HERE ROOTFS=$STATE/apptainer

refuse() {
    printf 'apptainer.sh: %s\n' "$*" >&2
    exit 2
}

# This script may itself be called apptainer, by a link on PATH.
host_program() {
    local program path
    for program in apptainer singularity; do
        while read -r path; do
            [[ $(readlink -f "$path") == "$(readlink -f "$0")" ]] || { echo "$path" && return; }
        done < <(type -aP "$program")
    done
    return 1
}

# Root without CAP_SYS_RESOURCE (bit 24; some virtual machines and outer containers) cannot keep its other privileges
# inside an image; without them everything works.
adapt_to_weak_root() {
    local capabilities
    ((EUID == 0)) || return 0
    capabilities=$(sed -n 's/^CapEff:\s*//p' /proc/self/status)
    (((16#$capabilities >> 24 & 1) == 0)) || return 0
    export APPTAINER_NO_PRIVS=1
}

fetch() {
    local started=$SECONDS
    ((EUID == 0)) || refuse "This machine has no apptainer, and fetching one needs root. Ask for the package apptainer, or use sudo."
    command -v mmdebstrap >/dev/null || refuse "This machine has no apptainer. Install it (package apptainer, or apptainer.org), or on Debian install mmdebstrap, with which it can be fetched."
    mkdir -p "$STATE"
    [[ -O $STATE ]] || refuse "$STATE belongs to someone else. Name another folder with PTYCHO_CONTAINER_DIR."
    exec 9>"$STATE/lock"
    flock --wait 600 9 || refuse "Another process has been fetching into $STATE for ten minutes."
    if [[ ! -d $ROOTFS ]]; then
        echo "apptainer.sh: fetching Apptainer from Debian unstable into $ROOTFS (about a minute)." >&2
        "$HERE/debian.sh" sid extract "$ROOTFS" \
            apptainer,squashfs-tools,squashfuse,mount,util-linux,bash,coreutils,sed,tar,gzip,base-files,ca-certificates
        [[ -e $ROOTFS/usr/bin/sh ]] || ln -s bash "$ROOTFS/usr/bin/sh"
        echo "apptainer.sh: fetched in $((SECONDS - started)) s." >&2
    fi
    exec 9>&-
}

# The kernel refuses user namespaces to a chrooted process, so the folder becomes "/" by pivot_root, in a mount
# namespace of its own. All other folders of the machine are shown in it at their own paths. An ordinary user does the
# same as root of a user namespace, and is himself again when Apptainer starts.
exec_inside() {
    local enter=(unshare --mount --propagation private) again=()
    if ((EUID != 0)); then
        enter+=(--user --map-root-user)
        again=(unshare --user "--map-user=$EUID" "--map-group=$(id --group)")
    fi
    # shellcheck disable=SC2016  # the variables are that shell's own
    exec "${enter[@]}" bash -ec '
        root=$1 folder=$2
        shift 2
        mount --bind "$root" "$root"
        mount --make-unbindable "$root" # else it would show up in itself
        for shown in /*; do
            [[ -d $shown && ! -L $shown && ! $shown =~ ^/(bin|sbin|lib.*|usr|etc|var|boot)$ ]] || continue
            mkdir -p "$root$shown" 2>/dev/null || continue
            mount --rbind "$shown" "$root$shown"
        done
        for shown in /etc/{hosts,hostname,resolv.conf,passwd,group,localtime}; do
            [[ -f $shown ]] || continue
            [[ -e $root$shown ]] || : 2>/dev/null >"$root$shown" || continue
            mount --bind "$shown" "$root$shown"
        done
        cd "$root"
        mkdir -p .machine
        pivot_root . .machine
        export PATH=/usr/sbin:/usr/bin:/sbin:/bin
        umount --lazy /.machine
        mount --make-private /
        cd "$folder" 2>/dev/null || cd /
        exec "$@"' bash "$ROOTFS" "$PWD" "${again[@]}" apptainer "$@"
}

if (($# == 0)); then usage && exit 2; fi
adapt_to_weak_root
if program=$(host_program); then exec "$program" "$@"; fi
[[ -d $ROOTFS ]] || fetch
exec_inside "$@"
