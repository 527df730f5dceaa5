#!/usr/bin/env bash
# Install or remove the systemd service of this checkout: service.sh install | uninstall
#
# It asks nothing, prints what it does, and does nothing twice. `make install-service` calls it.
#   SERVICE_USER=tdrl       who runs it; made if needed
#   SERVICE_PYTHON=path     its Python (default: .venv/bin/python of the checkout)
#   SERVICE_BUNDLE=dir      its bundle (default: artifacts/latest/bundle of the checkout)
#   DESTDIR=dir             write the files below dir and touch nothing else: no root needed
#   PURGE=1                 uninstall: remove settings, engines and stored events too
set -euo pipefail

app=$(cd "$(dirname "$0")/../.." && pwd)
templates=$app/runtime/service
user=${SERVICE_USER:-tdrl}
python=${SERVICE_PYTHON:-$app/.venv/bin/python}
bundle=${SERVICE_BUNDLE:-$app/artifacts/latest/bundle}
root=${DESTDIR:-}
root=${root%/}
unit=/etc/systemd/system/tdrl-edge.service
settings=/etc/tdrl-edge/tdrl-edge.env

say() { echo "tdrl-edge: $*"; }
fail() { echo "error: $*" >&2; exit 1; }

need_root() {
  [ -n "$root" ] && return
  [ "$(id -u)" = 0 ] || fail "the system's files are root's: use sudo, or DESTDIR=dir for a dry run"
  command -v systemctl >/dev/null || fail "no systemctl here: this system does not use systemd"
}

plain() {  # what a path in a unit file may hold without quoting
  case $2 in
    /*) ;;
    *) fail "$1 must be an absolute path, got $2" ;;
  esac
  [[ $2 =~ ^[A-Za-z0-9/._+-]+$ ]] || fail "$1 may hold letters, digits and /._+- only, got $2"
}

check() {
  [[ $user =~ ^[a-z_][a-z0-9_-]*$ ]] || fail "SERVICE_USER is no user name: $user"
  [ "$user" != root ] || fail "SERVICE_USER must not be root: a camera's service needs no such rights"
  plain "the checkout" "$app"
  plain SERVICE_PYTHON "$python"
  plain SERVICE_BUNDLE "$bundle"
  [ -x "$python" ] || fail "no Python at $python: make the venv first (docs/jetson.md) or set SERVICE_PYTHON"
  [ -f "$bundle/bundle.json" ] || fail "no bundle at $bundle: copy one there or set SERVICE_BUNDLE"
}

make_user() {
  if id "$user" >/dev/null 2>&1; then
    say "user $user exists"
  else
    say "making the system user $user"
    useradd --system --user-group --no-create-home --home-dir /var/lib/tdrl-edge \
      --shell /usr/sbin/nologin "$user"
  fi
}

check_reading() {
  local file
  for file in "$app/runtime/stream.py" "$bundle/bundle.json" "$python"; do
    runuser -u "$user" -- test -r "$file" || fail \
      "user $user cannot read $file: put the checkout under /opt, or SERVICE_USER=the owner of it"
  done
}

device_groups() {
  local group found=()
  for group in video render; do
    getent group "$group" >/dev/null && found+=("$group")
  done
  echo "${found[*]:-video}"
}

write_unit() {
  local part
  mkdir -p "$root$(dirname "$unit")"
  part=$(mktemp "$root$unit.XXXXXX")
  sed -e "s|@APP@|$app|g; s|@PYTHON@|$python|g; s|@BUNDLE@|$bundle|g; s|@USER@|$user|g" \
    -e "s|@GROUPS@|$(device_groups)|g" "$templates/tdrl-edge.service" >"$part"
  chmod 644 "$part"
  if cmp -s "$part" "$root$unit"; then
    rm "$part"
    say "$root$unit is up to date"
  else
    mv "$part" "$root$unit"
    say "wrote $root$unit"
  fi
}

write_settings() {
  if [ -e "$root$settings" ]; then
    say "kept your $root$settings"
    return
  fi
  mkdir -p "$root$(dirname "$settings")"
  install -m 600 "$templates/tdrl-edge.env" "$root$settings"
  say "wrote $root$settings"
}

install_service() {
  need_root
  check
  if [ -z "$root" ]; then
    make_user
    check_reading
  fi
  write_unit
  write_settings
  if [ -n "$root" ]; then
    say "a dry run: no user was made and systemd was not told"
    return
  fi
  systemctl daemon-reload
  systemctl --quiet enable tdrl-edge
  say "it starts at every boot from now on"
  if systemctl is-active --quiet tdrl-edge; then
    systemctl restart tdrl-edge
    say "restarted"
  else
    say "next: set TDRL_SOURCE in $settings, then: sudo systemctl start tdrl-edge"
  fi
  say "look: systemctl status tdrl-edge; journalctl -fu tdrl-edge"
}

uninstall_service() {
  need_root
  if [ -z "$root" ] && [ -e "$unit" ]; then
    systemctl --quiet disable --now tdrl-edge
    say "stopped"
  fi
  if [ -e "$root$unit" ]; then
    rm "$root$unit"
    say "removed $root$unit"
    [ -n "$root" ] || systemctl daemon-reload
  else
    say "no $root$unit"
  fi
  local kept=("$(dirname "$settings")" /var/cache/tdrl-edge /var/lib/tdrl-edge) folder
  for folder in "${kept[@]}"; do
    [ -e "$root$folder" ] || continue
    if [ "${PURGE:-0}" = 1 ]; then
      rm -r "$root$folder"
      say "removed $root$folder"
    else
      say "kept $root$folder (PURGE=1 removes it)"
    fi
  done
}

case ${1:-} in
  install) install_service ;;
  uninstall) uninstall_service ;;
  *) fail "usage: service.sh install | uninstall" ;;
esac
