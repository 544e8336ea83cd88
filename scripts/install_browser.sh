#!/bin/sh
# Installs Chromium and fonts for the browser journeys where Debian's packages can be installed.
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq &&
        apt-get install -y -qq --no-install-recommends \
            chromium fonts-dejavu-core fonts-noto-color-emoji >/dev/null
fi
command -v chromium >/dev/null ||
    echo "No chromium, and it cannot be installed here: the browser journeys will be SKIPPED." >&2
exit 0
