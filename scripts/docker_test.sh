#!/bin/sh
# Builds the image, starts everything of docker-compose.yml in a project of its own beside one that may run, checks it from
# outside, also while one node is down, and removes it.
set -eu
cd "$(dirname "$0")/.."
PUBLISH=127.0.0.1:${PORT:-18000}
export PUBLISH PUBLISH_GRAFANA="127.0.0.1:${GRAFANA_PORT:-13000}" NETWORK="${NETWORK:-10.213.78}"
export COMPOSE_PROJECT_NAME=tollkeeper-test PUBLIC_URL="http://$PUBLISH"
DOCKER_SECRETS=$(mktemp -d)
export DOCKER_SECRETS

remove() {
    docker compose down --volumes --timeout 60 >/dev/null 2>&1 || true
    rm -r "$DOCKER_SECRETS"
}
trap remove EXIT
trap 'exit 1' INT TERM

check() {
    docker compose exec -T api-1 sed -n 's/^member@example.com //p' /data/first-passwords |
        python3 scripts/check_deployment.py "http://$PUBLISH" member@example.com
}

sh deploy/compose/create_secrets.sh "$DOCKER_SECRETS" >/dev/null
docker compose up --build --detach
check
docker compose stop api-2
check
docker compose start api-2
docker compose exec -T api-1 tollkeeper ledger verify
docker compose exec -T api-1 tollkeeper doctor
# Prometheus has scraped both nodes, or does so soon.
docker compose exec -T prometheus sh -c 'for _ in 1 2 3 4 5 6 7 8 9 10; do
    wget -q -O - "http://127.0.0.1:9090/api/v1/query?query=sum(up)" | grep -q "\"2\"" && exit 0
    sleep 5
done; exit 1'
echo "ok: the deployment works"
