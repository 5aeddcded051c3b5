"""The test machine: a root image, kernels for it, and the QEMU that runs a command in it. See vm/README.md."""
