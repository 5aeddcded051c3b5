"""System calls by ctypes, one family a file; errno becomes SyscallError here and nowhere else."""
