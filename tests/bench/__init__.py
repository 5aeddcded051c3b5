"""minidock against docker, podman, tar and openssl on the same machine in the same minute: `python -m tests.bench`."""
