#!/bin/sh
# The system, its kernel, and since when it runs.
while IFS='=' read -r name value; do
    value=${value#[\"\']} value=${value%[\"\']}
    case $name in
    PRETTY_NAME) echo "os.name=$value" ;;
    ID) echo "os.id=$value" ;;
    VERSION_ID) echo "os.version=$value" ;;
    esac
done </etc/os-release
echo "kernel.release=$(uname -r)"
echo "kernel.machine=$(uname -m)"
echo "hostname=$(uname -n)"
read -r boot </proc/sys/kernel/random/boot_id && echo "boot.id=$boot"
while read -r name value rest; do
    [ "$name" != btime ] || echo "boot.time=$value"
done </proc/stat
