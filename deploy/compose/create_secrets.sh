#!/bin/sh
# Creates what docker-compose.yml reads from data/docker, a folder outside of git: each secret that is missing, and a file
# for settings. A secret that exists is kept. Keep a copy of data-key: what it encrypted cannot be read without it.
set -eu
folder=${1:-data/docker}

random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# Only the owner can enter the folder. Its files are readable, because Docker shows them to containers as they are, and
# the containers run as other users.
umask 022
mkdir -p "$folder"
chmod 700 "$folder"

create() {
    [ -s "$folder/$1" ] && return
    printf '%s\n' "$2" >"$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
    echo "Created $folder/$1"
}

create signing-secret "$(random)"
create data-key "$(random)"
create postgres-password "$(random)"
create tollkeeper-password "$(random)"
create redis-password "$(random)"
create grafana-password "$(random)"
create database-url "postgresql://tollkeeper:$(cat "$folder/tollkeeper-password")@postgres:5432/tollkeeper"
create limits-store "redis://:$(cat "$folder/redis-password")@redis:6379/0"
create settings.env "# Providers' keys and further settings, as in .env.example: OPENAI_API_KEY=sk-..."
