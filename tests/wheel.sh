# Build the wheel, install it without the dev extra into an environment of its own, and run the demo's first stage,
# smaller, outside the checkout. Usage: PYTHON=python3 bash tests/wheel.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=$(realpath -m "${1:-$work/venv}")
"${PYTHON:-python3}" -m venv "$venv"
bin=$venv/bin
"$bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$root"
"$bin/python" -m pip install --quiet --constraint "$root/constraints.txt" "$work"/fsar-*.whl
cd "$work"
for program in "$bin"/fsar-*; do "$program" --help >/dev/null; done
"$bin/fsar-prep" synth out --train-classes 4 --val-classes 2 --test-classes 2 --clips 2 --quiet
"$bin/python" -c 'import fsar, sys; assert sys.prefix in fsar.__file__, fsar.__file__; print(*fsar.list_splits())'
