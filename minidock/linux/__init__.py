"""System calls by ctypes' core, one family a file; errno becomes SyscallError here and nowhere else."""
