"""Small things that every part uses: near misses of names, paths, files of settings and records."""
