# Everything below the directory one is in: names, types, modes, owners, sizes, times, devices; contents; targets.
find . ! -type d -exec stat -c '%n %f %u:%g %s %Y %t:%T' '{}' ';' | sort
find . -type d -exec stat -c '%n %f %u:%g %Y' '{}' ';' | sort
find . -type f -exec sha256sum '{}' ';' | sort
find . -type l -exec readlink '{}' ';' | sort
