#!/usr/bin/env bash
# A folder with a Debian system, from the archive that this machine's own apt uses.
#   debian.sh RELEASE VARIANT FOLDER PACKAGE,PACKAGE,...
# VARIANT is mmdebstrap's: "minbase" is a system, "extract" only unpacks files, which takes half the time.
# Nothing in the folder says where it came from: no sources, no apt settings, no caches, no logs.
set -euo pipefail
(($# == 4)) || { echo "debian.sh: give a release, a variant of mmdebstrap, a folder and packages." >&2 && exit 2; }
release=$1 variant=$2 folder=$3 packages=$4

refuse() {
    printf 'debian.sh: %s\n' "$*" >&2
    exit 2
}

# archive LABEL: address of the first archive with that label that apt knows, if it knows one.
archive() {
    apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
        sed -n "/^$1|main|/{s///p;q}"
}

((EUID == 0)) || refuse "Making a Debian folder needs root. Run it with sudo."
for program in apt-get mmdebstrap; do
    command -v "$program" >/dev/null || refuse "$program is missing. This works on Debian; there, install mmdebstrap."
done
main=$(archive Debian)
[[ $main ]] || refuse "apt knows no Debian archive. Run apt-get update, or do this on a Debian machine."
sources=("deb $main $release main")
security=$(archive Debian-Security)
if [[ $security && $release != sid ]]; then sources+=("deb $security $release-security main"); fi

# How this machine's apt reaches the archive: proxies, certificates, whether dates are checked.
settings=$(mktemp)
trap 'rm -rf --one-file-system "$settings" "$folder.new"' EXIT
apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' >"$settings" || true

rm -rf --one-file-system "$folder.new"
# shellcheck disable=SC2016  # $1 is mmdebstrap's
printf '%s\n' "${sources[@]}" | mmdebstrap --quiet --variant="$variant" --include="$packages" --aptopt="$settings" \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/archives/*.deb' \
    "$release" "$folder.new" -
# mmdebstrap copies how this machine finds others; device nodes could not be copied into an image by an ordinary user.
rm -f "$folder.new/etc/resolv.conf" "$folder.new/etc/hostname"
find "$folder.new/var/log" -type f -delete 2>/dev/null || true
find "$folder.new/dev" -mindepth 1 -xdev -delete
mv "$folder.new" "$folder"
