#!/bin/sh
# The %test of every recipe: the image is complete, and a reconstruction of a known object comes out right.
# Works in a folder of its own under $TMPDIR, so the image may be read-only and the current folder too.
set -eu
work=$(mktemp -d "${TMPDIR:-/tmp}/ptycho-selftest.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

echo "1/3 What the image has"
ptycho doctor --strict --folder "$work" || {
    echo "The image is not complete, or cannot be used on this machine." >&2
    exit 1
}

echo "2/3 A reconstruction"
ptycho simulate scan.h5 --patch-size 32 --n-positions 144 --step-px 4 --seed 1
cat >job.toml <<'TEXT'
[job]
name = "selftest"
engine = "rpie"
seed = 1

[data]
scan = "scan.h5"

[refine]
epochs = 10
TEXT
ptycho run job.toml

echo "3/3 Is it the object?"
ptycho evaluate runs/selftest-* --json >errors.json
python3 - <<'TEXT'
import json, sys

with open("errors.json") as file:
    error_rad = json.load(file)["phase_rmse_rad"]
if not error_rad < 0.06:
    sys.exit(f"The phase differs from the truth by {error_rad:.3f} rad (root mean square); 0.04 was expected. Do not use this image.")
print(f"  The phase differs from the truth by {error_rad:.3f} rad (root mean square): good.")
TEXT
