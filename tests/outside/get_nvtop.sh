#!/bin/sh
# get_nvtop.sh FOLDER: unpacks Debian 12's nvtop (contrib) into FOLDER without installing it and without touching
# the machine's package sources: apt gets a sources list, a list cache and an archive cache of its own.
set -eu
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm contrib' >"$work/sources.list"
private="-q -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
cd "$work"
# shellcheck disable=SC2086
timeout 120 apt-get $private update >/dev/null
# shellcheck disable=SC2086
timeout 120 apt-get $private download nvtop >/dev/null
mkdir -p "$folder"
dpkg -x nvtop_*.deb "$folder"
